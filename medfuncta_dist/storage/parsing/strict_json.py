"""JSON from storage, which is not trusted: anything but plain JSON is a ValueError, never another exception."""

from __future__ import annotations

import json
import math
from typing import Any

from medfuncta_dist.errors import IntegrityError

RESTORE = "restore the object from a backup"


def parse(data: bytes) -> Any:
    """The value of UTF-8 JSON. ValueError also for NaN, infinities (1e999), unpaired surrogates, and nesting that
    is too deep for Python."""
    try:
        text = data.decode()
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value


def parse_object(data: bytes, what: str, where: str, do: str = RESTORE) -> dict[str, Any]:
    """A JSON object. IntegrityError, naming ``what``, if it is not one."""
    try:
        value = parse(data)
    except ValueError as error:
        raise IntegrityError(f"{what} is not JSON", where=where, do=do) from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object", where=where, do=do)
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number beyond what a float holds")
    return number
