"""Keys: names of scans that only the owner of the salt can trace back to a file."""

from __future__ import annotations

import hmac
import re

SALT_BYTES = 32
PIECE = re.compile(r"(^|/)(slice|slab)/\d+$")


class KeyMaker:
    """HMAC-SHA-256 under the owner's salt, as 64 lowercase hex digits (WebDataset cuts a key at its first dot).

    Each part of the message is preceded by its length, so different identities never share one. Raises ValueError for a
    salt too short to keep file names from being guessed.
    """

    def __init__(self, salt: bytes) -> None:
        if len(salt) < SALT_BYTES:
            raise ValueError(f"a salt has at least {SALT_BYTES} bytes")
        self._salt = salt

    def source_key(self, relative: str) -> str:
        """Key of a source: its path relative to the fixed part of ``data.source``."""
        return self._digest("source", relative)

    def scan_key(self, relative: str, item: str) -> str:
        """Key of a scan in a source; ``item`` is its ordinal there ("" where a source is one scan)."""
        return self._digest("scan", relative, item)

    def group_key(self, kind: str, text: str) -> str:
        """Key of a patient: ``text`` is what names the patient within ``kind``, the way in which it is named."""
        return self._digest("group", kind, text)

    def fingerprint(self) -> str:
        """16 hex digits that distinguish two salts and reveal neither."""
        return self._digest("fingerprint")[:16]

    def property_key(self, kind: str, *values: str) -> str:
        """Key of a property (``content``, ``size``, ``patient``), 32 hex digits: equal where the values are, and it
        tells none."""
        return self._digest("property", kind, *values)[:32]

    def _digest(self, *parts: str) -> str:
        # surrogateescape: file names need not be valid UTF-8, and each must still have its own key.
        encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
        message = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)
        return hmac.digest(self._salt, message, "sha256").hex()


def volume_item(item: str) -> str:
    """The item of the volume that a slice or a slab was cut from; any other item itself."""
    return PIECE.sub("", item)
