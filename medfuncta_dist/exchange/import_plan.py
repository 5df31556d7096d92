"""Which files of the public code become which rows of a run's latent table: the plan of an import.

Where the run's data set is packed, a file belongs to the scan of its number. Else the files themselves are the rows:
their keys are made of their paths, and the owner's private mapping leads back to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.exchange.held_run import HeldRun
from medfuncta_dist.exchange.import_task import ImportTask
from medfuncta_dist.exchange.latent_folder import LatentFolder, SplitFiles
from medfuncta_dist.exchange.paired_scans import Numbers, scan_numbers
from medfuncta_dist.fitting.fit_driver import TableLocation, fit_digest, imported_table, locate_table
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.imported_record import Imported, ImportedSplit
from medfuncta_dist.network.committed_network import published_network
from medfuncta_dist.scans.private.private_folder import load_or_create_salt, private_folder
from medfuncta_dist.scans.private.private_mapping import MappingRow, open_mapping
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import newest_snapshot, read_index
from medfuncta_dist.streaming.worker_settings import WorkerSettings

SCANS_PER_RANGE = 1024
"""Of a table without scans: parts of 8 MB at P = 2048, and 500 of them for half a million files."""


@dataclass(frozen=True)
class ImportPlan:
    """The files of a folder as rows of a table."""

    folder: LatentFolder
    target: TableLocation
    works: list[FitWork]
    """Ranges of the splits that the folder has."""
    numbers: dict[str, Numbers]
    """Of packed scans, by split; empty without scans."""
    record: Imported | None
    """What is published of a table without scans."""

    @property
    def file_count(self) -> int:
        """Files of all splits."""
        return sum(len(files.numbers) for files in self.folder.splits.values())

    def files(self, split: str) -> SplitFiles:
        return self.folder.splits[split]


def plan_import(held: HeldRun, folder: LatentFolder) -> ImportPlan:
    """RunFileError where the folder's files cannot be joined with the packed scans."""
    run, store = held.run, held.store
    if run.data.snapshot is None and newest_snapshot(store, run.dataset) is None:
        splits = {split: ImportedSplit(files.digest, len(files.numbers)) for split, files in folder.splits.items()}
        network = published_network(store, run.name)
        record = Imported(network.digest, tuple(run.data.shape), run.data.channels, SCANS_PER_RANGE, splits)
        target = imported_table(run, network, record)
        return ImportPlan(folder, target, target.works, {}, record)
    target = locate_table(run, store)
    if unknown := sorted(folder.splits.keys() - target.snapshot.splits.keys()):
        packed = ", ".join(sorted(target.snapshot.splits))
        raise RunFileError(
            f"the folder has the split '{unknown[0]}', the packed data set has {packed}",
            where=folder.root,
            do="move that folder elsewhere, or pack its scans under this name (data.splits)",
        )
    works = [work for work in target.works if work.split in folder.splits]
    numbers = {split: _numbers(held, target, split) for split in folder.splits}
    return ImportPlan(folder, target, works, numbers, None)


def _numbers(held: HeldRun, target: TableLocation, split: str) -> Numbers:
    found = scan_numbers(held.store, target.snapshot.splits[split])
    if found is None:
        raise RunFileError(
            f"which file of split {split} belongs to which scan cannot be told: files are numbered as the scans of one "
            "npz or CSV file, and this split was packed from something else",
            where=f"data set {held.run.dataset}",
            do="pack the file that the public code has read, or import into a run without a packed data set",
        )
    return found


class ImportTasks:
    """The tasks, each made when its turn comes: the files' paths and keys of one range are in memory, not of all."""

    def __init__(self, held: HeldRun, plan: ImportPlan, works: list[FitWork]) -> None:
        self._held, self._plan, self._works = held, plan, works

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[ImportTask]:
        rows = self._paired if self._plan.target.has_scans else self._new
        for work in self._works:
            yield _task(self._held, self._plan, work, *rows(work))

    def _paired(self, work: FitWork) -> tuple[list[str], list[str | None]]:
        """Keys of packed scans, and the file of each."""
        files, shown = self._plan.files(work.split), slice(work.start, work.stop)
        numbers = self._plan.numbers[work.split][work.shard.sha256][shown].tolist()
        keys = read_index(self._held.store, work.shard)["key"].to_pylist()[shown]
        return keys, [files.path(number) if files.holds(number) else None for number in numbers]

    def _new(self, work: FitWork) -> tuple[list[str], list[str | None]]:
        """Keys of the files themselves, which the owner's mapping notes first."""
        run, files = self._held.run, self._plan.files(work.split)
        private = private_folder(run.data.private, run.dataset, run.storage)
        keys = KeyMaker(load_or_create_salt(private))
        paths = [files.path(number) for number in files.numbers[work.start : work.stop].tolist()]
        named = [keys.scan_key(path, "") for path in paths]
        with open_mapping(private) as mapping:
            mapping.add(
                MappingRow(key, f"{self._plan.folder.root}/{path}", "") for key, path in zip(named, paths, strict=True)
            )
        return named, list(paths)


def _task(held: HeldRun, plan: ImportPlan, work: FitWork, keys: list[str], files: list[str | None]) -> ImportTask:
    run, target = held.run, plan.target
    return ImportTask(
        worker=WorkerSettings.of(run),
        source=plan.folder.root,
        files=tuple(files),
        keys=tuple(keys),
        work=work,
        has_scans=target.has_scans,
        folder=target.folder,
        network=target.network,
        storage_type=run.fit.storage_type,
        fit_digest=fit_digest(run),
        min_psnr=run.fit.min_psnr,
        identifying_labels=run.data.identifying_labels,
        fence=held.fence,
    )
