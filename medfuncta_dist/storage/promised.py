"""What records promise: objects that must be there, read by name or found in one listing.

A missing one is damage of what was committed (LostObjectError), not a wrong URI: the record proves that it was there.
"""

from __future__ import annotations

from collections.abc import Mapping

from medfuncta_dist.errors import LostObjectError, ObjectMissingError
from medfuncta_dist.storage.object_store import ObjectStore

REPAIR = "run `medfuncta-dist verify RUN.yaml --repair`"
"""With the run file in the place of RUN.yaml."""


def read_promised(store: ObjectStore, path: str, what: str, do: str, *, limit: int | None = None) -> bytes:
    """The bytes of an object that a record names. LostObjectError, which begins with ``what``, where it is missing."""
    try:
        return store.read(path, limit=limit)
    except ObjectMissingError as error:
        raise LostObjectError(f"{what} is missing: a record names it", where=store.uri(path), do=do) from error


def missing_below(store: ObjectStore, prefix: str, promised: Mapping[str, int]) -> list[str]:
    """The promised objects (path: bytes) that are not below the folder in this size, in order.

    One listing, which is a request per 1000 objects of the folder; none where nothing is promised.
    """
    if not promised:
        return []
    found = {info.path: info.size for info in store.list(prefix)}
    return [path for path, size in promised.items() if found.get(path) != size]
