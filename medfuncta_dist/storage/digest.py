"""Digests: SHA-256 for whole objects, CRC-32C for single samples; records are digested as canonical JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import crc32c as _crc32c


def sha256_bytes(data: bytes) -> str:
    """SHA-256 as 64 lowercase hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a local file as 64 lowercase hex digits, in constant memory."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli, RFC 3720) as an unsigned 32-bit number."""
    return int(_crc32c.crc32c(data))


def canonical_json(value: Any) -> bytes:
    """The one UTF-8 JSON text of a value: sorted keys, no spaces. Raises ValueError for NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_json(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value))
