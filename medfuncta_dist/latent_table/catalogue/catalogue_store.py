"""A table's catalogue in storage: the one that belongs to the present commit records, and writing it.

Where there is none, as in tables of earlier versions or after a fit that was stopped, one is made on this machine.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.latent_table.catalogue import catalogue_format as catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_build import OnRows, Table, build_catalogue, read_table
from medfuncta_dist.latent_table.catalogue.catalogue_format import CatalogueRecord
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Catalogue
from medfuncta_dist.latent_table.catalogue.patched_build import build_patched_catalogue
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, NewRecord, publish, withdraw
from medfuncta_dist.storage.scratch import process_folder, scratch_folder
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import ProgressReport

T = TypeVar("T")
SILENT_S = 3.0


@dataclass(frozen=True)
class Listed:
    """A table's folder as one listing shows it."""

    store: ObjectStore
    folder: str
    shards: frozenset[str] | None
    """SHA-256 of the shards whose scans belong to the table; None for all."""
    sizes: Mapping[str, int]
    """Bytes, by path."""

    @classmethod
    def of(cls, store: ObjectStore, folder: str, shards: Iterable[str] | None) -> Listed:
        """A request per 1000 objects."""
        sizes = {info.path: info.size for info in store.list(folder)}
        return cls(store, folder, None if shards is None else frozenset(shards), sizes)

    @property
    def names(self) -> list[str]:
        """Of the ledger's records."""
        return catalogue.commit_names(self.sizes, self.folder, self.shards)

    def records(self, beginning: str) -> list[str]:
        """Paths of the commit records of catalogues whose names begin so, the highest generation first."""
        start = f"{self.folder}/{catalogue.FOLDER}/"
        names = [path.removeprefix(start) for path in self.sizes if path.startswith(start + beginning)]
        # By generation: without one, of nine digits, of more.
        names = sorted((n for n in names if catalogue.NAMES.fullmatch(n)), key=lambda n: (len(n), n), reverse=True)
        return [start + name for name in names]

    def has(self, record: CatalogueRecord) -> bool:
        """Whether all that a catalogue's record names is there, in its size."""
        sizes = [(one.path, one.size) for one in record.parts] + [(one.path, one.size) for one in record.files]
        sizes += [(part.patches.scans.path, part.patches.scans.size) for part in record.parts if part.patches]
        return all(self.sizes.get(f"{self.folder}/{path}") == size for path, size in sizes)


def present_catalogue(listed: Listed) -> Catalogue | None:
    """The catalogue in storage that belongs to the ledger's present records. IntegrityError for a damaged record."""
    commits = catalogue.names_digest(listed.names)
    for path in listed.records(commits[:24]):
        record = read_as(CatalogueRecord, listed.store, path, catalogue.KIND)
        if record.commits == commits and listed.has(record):
            return Catalogue(listed.store, listed.folder, record, path)
    return None


def open_catalogue(store: ObjectStore, folder: str, shards: Iterable[str] | None) -> Catalogue:
    """The catalogue of a table as it is now; one that is not in storage is made in a temporary folder of this process.

    Raises:
        StageOrderError: nothing is fitted.
        IntegrityError: something of it is damaged or missing.
    """
    listed = Listed.of(store, folder, shards)
    return present_catalogue(listed) or _made_here(listed)


def _made_here(listed: Listed) -> Catalogue:
    local = Path(tempfile.mkdtemp(dir=process_folder("catalogue")))
    with ProgressBar("catalogue") as bar:
        record = _built(listed, local, shown_later(bar))
    made = Catalogue(ObjectStore(str(local.parent)), local.name, record)
    weakref.finalize(made, shutil.rmtree, local, ignore_errors=True)
    return made


def shown_later(bar: ProgressBar) -> OnRows:
    """Progress on stderr, of what takes longer than people wait without a word."""
    begun = time.monotonic()

    def show(done: int, total: int) -> None:
        if time.monotonic() - begun > SILENT_S:
            bar.show(ProgressReport("catalogue", done, total))

    return show


def write_catalogue(
    store: ObjectStore, folder: str, shards: Iterable[str] | None, fence: Guard, on_rows: OnRows = lambda a, b: None
) -> Catalogue:
    """Write the catalogue of a table as it is now, unless it is there, and remove others. A damaged one is made again.

    LeaseLostError, and nothing is committed, if the lease is lost.
    """
    listed = Listed.of(store, folder, shards)
    found = _if_whole(lambda: present_catalogue(listed))
    if found is None:
        with scratch_folder("catalogue") as local:
            record = _built(listed, local, on_rows)
            _put_files(store, folder, local, record)
        path = catalogue.record_path(folder, record.commits, fence.token)
        publish(store, fence, NewRecord(path, catalogue.KIND, record.body(), fence.token, record.version))
        found = Catalogue(store, folder, record, path)
    kept = {found.path, *(f"{folder}/{file.path}" for file in found.record.files)}
    for path in catalogue_objects(store, folder):
        if path not in kept:
            withdraw(store, fence, path)
    return found


def _built(listed: Listed, local: Path, on_rows: OnRows) -> CatalogueRecord:
    """Made from an earlier catalogue, as far as that is right and whole, and from the parts."""
    table = read_table(listed.store, listed.folder, listed.names, listed.shards)
    earlier = None if table.patched else _earlier(listed)
    record = earlier and _if_whole(lambda: build_catalogue(listed.store, table, local, earlier, on_rows))
    return record or built_anew(listed.store, table, local, on_rows)


def built_anew(store: ObjectStore, table: Table, local: Path, on_rows: OnRows) -> CatalogueRecord:
    """Made from the parts alone."""
    if table.patched:
        return build_patched_catalogue(store, table, local, on_rows)
    return build_catalogue(store, table, local, None, on_rows)


def _put_files(store: ObjectStore, folder: str, local: Path, record: CatalogueRecord) -> None:
    for file in record.files:
        store.upload(local / file.path, f"{folder}/{file.path}")


def _if_whole(read: Callable[[], T | None]) -> T | None:
    """None for what is damaged: it can be made again from the parts. FormatVersionError is no damage."""
    try:
        return read()
    except FormatVersionError:
        raise
    except IntegrityError:
        return None


def _earlier(listed: Listed) -> Catalogue | None:
    """The last catalogue that was written, of whatever commit records: most of its rows may still be right."""
    found: list[tuple[str, CatalogueRecord]] = []
    for path in listed.records(""):
        record = _if_whole(lambda path=path: read_as(CatalogueRecord, listed.store, path, catalogue.KIND))  # type: ignore[misc]
        if record is not None and all(listed.sizes.get(f"{listed.folder}/{f.path}") == f.size for f in record.files):
            found.append((path, record))
    if not found:
        return None
    path, record = max(found, key=lambda one: one[1].rows)
    return Catalogue(listed.store, listed.folder, record, path)


def catalogue_objects(store: ObjectStore, folder: str) -> list[str]:
    """Everything of a table's catalogues, commit records first: what is deleted in this order is never half there."""
    paths = [info.path for info in store.list(f"{folder}/{catalogue.FOLDER}")]
    return sorted(paths, key=lambda path: (not path.endswith(".json"), path))
