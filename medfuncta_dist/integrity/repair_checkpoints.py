"""Removes damaged checkpoints, where a whole one is left to resume from."""

from __future__ import annotations

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, withdraw
from medfuncta_dist.training.checkpoints.checkpoint import checkpoint_name, newest_first, read_checkpoint


def remove_damaged_checkpoints(store: ObjectStore, run: str, fence: Guard) -> list[str]:
    """Remove every damaged checkpoint of a run, record first; their names. None where no whole one would be left.

    One of an unknown format version is neither damaged nor whole, and stays.
    """
    paths = newest_first(store, f"runs/{run}/checkpoints")
    states = {path: _is_whole(store, path) for path in paths}
    damaged = [path for path in paths if states[path] is False]
    if True not in states.values():
        return []
    for path in damaged:
        folder = f"runs/{run}/checkpoints/{checkpoint_name(path)}"
        withdraw(store, fence, path)
        for info in store.list(folder):
            store.delete(info.path)
    return [checkpoint_name(path) for path in damaged]


def _is_whole(store: ObjectStore, path: str) -> bool | None:
    try:
        read_checkpoint(store, path)
    except FormatVersionError:
        return None
    except (IntegrityError, ObjectMissingError):
        return False
    return True
