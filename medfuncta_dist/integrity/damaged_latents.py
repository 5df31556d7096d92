"""Finds the damaged commit records of a latent table, and removes them: then their latents can be made again.

Only whole ranges are removed: their scans are in the shards, and the same machine fits the same bits again.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.fitting.patched import patch_ledger
from medfuncta_dist.latents import table_format
from medfuncta_dist.storage.commit_record import read_as, record_paths
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, withdraw


@dataclass(frozen=True)
class DamagedRecord:
    """A commit record that cannot be used. ``part`` is the path of its part, where the record names one."""

    record: str
    what: str
    part: str | None = None
    known_version: bool = True
    """A record of another version is not damaged, and must not be removed."""


def range_of(record: str) -> str:
    """The name of the range whose commit record lies at this path."""
    return "-".join(record.rsplit("/", 1)[-1].removesuffix(".json").split("-")[:3])


def find_damaged_records(store: ObjectStore, folder: str) -> list[DamagedRecord]:
    """Every record below ``folder`` that is damaged, or whose part is."""
    paths = record_paths(store, f"{folder}/commits", latent_ledger.NAMES)
    with ThreadPoolExecutor(table_format.READERS) as pool:
        return [
            found for found in pool.map(lambda path: _check_record(store, folder, path), paths) if found is not None
        ]


def _check_record(store: ObjectStore, folder: str, path: str) -> DamagedRecord | None:
    part = None
    try:
        commit = read_as(Commit, store, path, latent_ledger.KIND)
        if commit.part is not None:
            part = f"{folder}/{commit.part.path}"
            if commit.patches is not None:
                patch_ledger.check_parts(store, folder, commit)
                return None
            rows = table_format.read_part(store, folder, commit.part, ["key"]).num_rows
            if rows != commit.rows:
                return DamagedRecord(path, f"its part holds {rows} rows, not {commit.rows}", part)
    except FormatVersionError as error:
        return DamagedRecord(path, error.what, part, known_version=False)
    except (IntegrityError, ObjectMissingError) as error:
        return DamagedRecord(path, error.what, part)
    return None


def remove_damaged_records(store: ObjectStore, damages: Iterable[DamagedRecord], fence: Guard) -> list[DamagedRecord]:
    """Remove damaged records and their parts, records first: a part without a record is harmless. Returns those left.

    Records of another version are not deleted.
    """
    left = []
    for damage in damages:
        if not damage.known_version:
            left.append(damage)
            continue
        withdraw(store, fence, damage.record)
        if damage.part is not None:
            store.delete(damage.part)
    return left
