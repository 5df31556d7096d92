"""Values from storage as a dataclass: every field is there and has its type, and there is no other field."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.parsing.strict_json import RESTORE

T = TypeVar("T")


def typed(kind: type[T], body: Mapping[str, Any], what: str, where: str, do: str = RESTORE) -> T:
    """``body`` as a ``kind``. IntegrityError names the first field that is missing, unknown or invalid."""
    try:
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(body.keys() - known):
            raise IntegrityError(f"{what} has an unknown field: {unknown[0]!r}", where=where, do=do)
        # Through JSON, so that lists may become tuples; nothing else is converted.
        value: T = _adapter(cast(Hashable, kind)).validate_json(canonical_json(dict(body)), strict=True)
        return value
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise IntegrityError(f"{what} has no valid {field}", where=where, do=do) from None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not JSON", where=where, do=do) from error


@lru_cache(64)
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # type: ignore[arg-type]  # a class, which is hashable
