"""What is wrong with a latent table in storage, record by record, and its removal, so that fit makes it again.

Only whole ranges are given up: their scans are in the shards, and the same machine fits the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.latents import table
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.object_store import ObjectStore

RECORD = re.compile(r"[0-9a-f]{24}-\d{8}-\d{8}(-g\d{9,})?\.json")


@dataclass(frozen=True)
class Damage:
    """A commit record that can not be used. ``part`` is its part's path, where it is the part that is damaged."""

    record: str
    what: str
    part: str | None = None
    ours: bool = True
    """A record of this version: one of another is not damaged, and not to be removed."""


def find_damage(store: ObjectStore, folder: str) -> list[Damage]:
    """Every record below ``folder`` that is damaged, or whose part is."""
    paths = [info.path for info in store.list(f"{folder}/commits") if info.path.endswith(".json")]
    with ThreadPoolExecutor(table.READERS) as pool:
        return [damage for damage in pool.map(lambda path: _damage(store, folder, path), paths) if damage is not None]


def _damage(store: ObjectStore, folder: str, path: str) -> Damage | None:
    part = None
    try:
        commit = read_as(Commit, store, path, latent_ledger.KIND)
        if commit.part is not None:
            part = f"{folder}/{commit.part.path}"
            rows = table.read_part(store, folder, commit.part, ["key"]).num_rows
            if rows != commit.rows:
                return Damage(path, f"its part holds {rows} rows, not {commit.rows}", part)
    except FormatVersionError as error:
        return Damage(path, error.what, part, ours=False)
    except (IntegrityError, ObjectMissingError) as error:
        return Damage(path, error.what, part)
    return None


def remove(store: ObjectStore, damages: Iterable[Damage]) -> list[Damage]:
    """Remove damaged records and their parts, records first: a part alone is no damage. Returns what was left.

    What is of another version, or not named as a commit record, is not ours to delete.
    """
    left = []
    for damage in damages:
        if not damage.ours or not RECORD.fullmatch(damage.record.rsplit("/", 1)[-1]):
            left.append(damage)
            continue
        store.delete(damage.record)
        if damage.part is not None:
            store.delete(damage.part)
    return left
