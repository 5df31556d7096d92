"""Whether the indexes of a run are whole, and of the present table; and removing damaged ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import FormatVersionError, IntegrityError, StageOrderError
from medfuncta_dist.fitting.fit_driver import locate_table
from medfuncta_dist.neighbours.index_record import (
    IndexRecord,
    fitted_parts,
    index_folder,
    read_index_record,
    read_object,
    read_rows,
    record_path,
    records_below,
    table_digest,
)
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, withdraw


@dataclass(frozen=True)
class CheckedIndex:
    """An index, and what is wrong with it: URI and fault, both empty where nothing is."""

    folder: str
    metric: str
    present: bool = False
    """Whether it is that of the present latent table; one that is not is no fault, and is not searched."""
    where: str = ""
    what: str = ""
    known_version: bool = True

    @property
    def path(self) -> str:
        """Of its commit record."""
        return record_path(self.folder, self.metric)


def check_indexes(run: RunFile, store: ObjectStore) -> list[CheckedIndex]:
    """Every object of every index of a run, read and compared. StageOrderError where there is none."""
    found = list(records_below(store, run.name))
    if not found:
        raise StageOrderError("there is no index of neighbours")
    folder, digest = _present(run, store)
    return [_check(store, at, metric, digest if at == folder else "") for at, metric in found]


def _present(run: RunFile, store: ObjectStore) -> tuple[str, str]:
    """The folder that the present table's index has, and the digest of that table."""
    try:
        target = locate_table(run, store)
        return index_folder(target.folder), table_digest(fitted_parts(store, target))
    except StageOrderError:
        return "", ""


def _check(store: ObjectStore, folder: str, metric: str, table: str) -> CheckedIndex:
    try:
        record = read_index_record(store, folder, metric)
        _check_objects(store, folder, record)
    except IntegrityError as error:
        known = not isinstance(error, FormatVersionError)
        where = error.where or store.uri(record_path(folder, metric))
        return CheckedIndex(folder, metric, where=where, what=error.what, known_version=known)
    return CheckedIndex(folder, metric, present=record.table == table)


def _check_objects(store: ObjectStore, folder: str, record: IndexRecord) -> None:
    """One at a time: an index may be larger than the memory of the machine that checks it."""
    if record.map is not None:
        read_object(store, folder, record.map)
    for block in record.blocks:
        read_object(store, folder, block.index)
        rows = read_rows(store, folder, block.rows).num_rows
        if rows != block.scans:
            where = store.uri(f"{folder}/{block.rows.path}")
            raise IntegrityError(f"a block of {block.scans} vectors has {rows} keys", where=where)
    if sum(block.scans for block in record.blocks) != record.scans:
        what = "the blocks of the index are not as many scans as its record says"
        raise IntegrityError(what, where=store.uri(record_path(folder, record.metric)))


def remove_damaged(store: ObjectStore, checked: Sequence[CheckedIndex], fence: Guard) -> list[CheckedIndex]:
    """Remove the records of damaged indexes, which can be made again; returns those of another version, which stay."""
    for one in checked:
        if one.what and one.known_version:
            withdraw(store, fence, one.path)
    return [one for one in checked if one.what and not one.known_version]
