"""The fit stage's driver: plans the ranges that are left, maps the tasks, and reconciles the counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from medfuncta_dist.config.kept_run_file import pin_path, pinned_digest, with_task_size
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import QuarantineLimitError, RunFileError, StageOrderError
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.decided_tables import decide_tables, require_possible, tables_size
from medfuncta_dist.fitting.fit_failures import DAMAGED_SHARD, Failures, pieces_of
from medfuncta_dist.fitting.fit_plan import FitWork, chosen_splits, cover, overlaps, ranges
from medfuncta_dist.fitting.fit_task import FitTask, Fitted, fit_task
from medfuncta_dist.fitting.imported_record import Imported, imported_record
from medfuncta_dist.fitting.latent_ledger import Counts, Quarantined, Spread, Unsolved
from medfuncta_dist.fitting.patched.patch_ledger import once, patch_totals
from medfuncta_dist.fitting.patched.shard_units import GridSettings, ShardUnits
from medfuncta_dist.fitting.patched.stored_units import grid_settings, stored_units
from medfuncta_dist.fitting.table_trial import TableTrial
from medfuncta_dist.latents.curved.stream_column import LARGEST_PART
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.network.committed_network import NetworkRef, published_network
from medfuncta_dist.network.core_settings import stored_settings
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import REPAIR
from medfuncta_dist.storage.publish import ALONE, Guard
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import Done, Failed, FanOut, map_divided
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress


@dataclass(frozen=True)
class TableLocation:
    """Where a run's latents are, and the snapshot and network that they belong to."""

    folder: str
    snapshot: Snapshot
    network: NetworkRef
    works: list[FitWork]
    """Every range that belongs to it, fitted or not."""
    scans_per_task: int
    """Scans of each range, or patches of them, but for the last one of a shard."""
    has_scans: bool = True
    """False for latents that were imported without their scans: there is nothing to fit or to compare with."""
    grids: GridSettings | None = None
    """Where scans are grids of patches, and in the next field the units of each shard, by its SHA-256."""
    units: Mapping[str, ShardUnits] | None = field(default=None, repr=False)

    @property
    def shards(self) -> set[str]:
        """SHA-256 of the shards it covers."""
        return {work.shard.sha256 for work in self.works}

    @property
    def unit_counts(self) -> dict[str, int] | None:
        """Units of each shard; None where each scan is one."""
        return None if self.units is None else {shard: len(units) for shard, units in self.units.items()}

    @property
    def scans(self) -> int:
        """Of all shards."""
        return sum(shard.samples for shard in {work.shard.sha256: work.shard for work in self.works}.values())

    def within_one_scan(self, work: FitWork) -> bool:
        """Whether a range is one scan, or patches of one."""
        if self.units is None:
            return work.units == 1
        return self.units[work.shard.sha256].within_one_scan(work.start, work.stop)


@dataclass(frozen=True)
class FitSummary:
    """The content of the table when the stage ends. ``fitted_now`` counts the scans of this run of the stage."""

    folder: str
    dataset_digest: str
    network_digest: str
    table_digest: str
    """Of all its parts: the same latents of the same scans have the same."""
    counts: Counts
    fitted_now: int
    found_committed: int
    """Ranges that were already committed by a copy of the task, and not fitted again."""
    quarantined: list[Quarantined]
    psnr: dict[str, Spread]
    scans_per_task: int
    """As the run file says, or as the run chose."""
    storage_type: str
    """As the run file says, or as ``fit.storage_loss`` made the stage choose; so are the numbers per latent."""
    numbers: int
    unsolved: Unsolved
    halved: bool
    """Whether a task ran out of memory, and its process went on with half the chunks."""
    part_bytes: int = 0
    """Of all parts, as they are in storage."""
    shared_bytes: int = 0
    """Of the tables that curved latents share."""
    patches: int = 0
    """Rows of the table, where scans are grids of patches; ``fitted_now`` and ``scans_per_task`` then count patches."""
    lost_parts: int = 0
    """Committed parts that were missing from storage: their ranges were fitted again."""


def fit_digest(run: RunFile) -> str:
    """SHA-256 of every setting that can change a latent; ``fit.splits`` is not one of them."""
    sections = run.digested(lambda key: key.in_fit_digest).values()
    settings = {key: value for section in sections for key, value in section.items()}
    return digest_json(settings | {"rate": run.fit_rate})


def latent_folder(run: RunFile, network_digest: str) -> str:
    """Folder of the latent table, relative to the storage root."""
    return f"runs/{run.name}/latents/{network_digest[:16]}-{fit_digest(run)[:16]}"


def locate_table(run: RunFile, store: ObjectStore) -> TableLocation:
    """The table that this run file describes. StageOrderError before its data set and its network are complete;
    LostObjectError where the snapshot that the run trained on has lost its file or record, and there is none after it.

    An open ``fit.scans_per_task`` is what the run has settled. Where nothing is packed, it is the table that was
    imported without scans, if there is one.
    """
    run = with_task_size(run, store)
    try:
        snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    except StageOrderError:
        if (imported := imported_record(store, run.name)) is None:
            raise
        return imported_table(run, published_network(store, run.name), imported)
    _require_pinned(run, store, snapshot)
    network = published_network(store, run.name)
    grids, units = grid_settings(run), None
    if grids is not None:
        chosen = [shard for split in chosen_splits(snapshot, run.fit.splits) for shard in snapshot.splits[split]]
        units = stored_units(store, chosen, grids)
    counts = None if units is None else {shard: len(found) for shard, found in units.items()}
    works = ranges(snapshot, run.fit.splits, run.fit.range_scans, counts)
    folder = latent_folder(run, network.digest)
    return TableLocation(folder, snapshot, network, works, run.fit.range_scans, grids=grids, units=units)


def imported_table(run: RunFile, network: NetworkRef, imported: Imported) -> TableLocation:
    """The table of latents that were imported without scans."""
    snapshot, size = imported.as_snapshot(run.dataset), imported.scans_per_range
    works = ranges(snapshot, run.fit.splits, size)
    return TableLocation(latent_folder(run, network.digest), snapshot, network, works, size, has_scans=False)


def require_scans(target: TableLocation) -> None:
    """StageOrderError where the run's latents were imported without scans."""
    if not target.has_scans:
        raise StageOrderError(
            "the latents of this run were imported without their scans: none can be fitted, compared with its scan, or "
            "published",
            where=target.folder,
            do="run the pack stage for the scans, then `medfuncta-dist import-latents` again; decode and probe need "
            "no scans",
        )


def _require_pinned(run: RunFile, store: ObjectStore, newest: Snapshot) -> None:
    """Where the newest snapshot is not the one that the run trained on, that one must still have its record: else the
    newest may be an older one, with fewer scans."""
    pinned = pinned_digest(run, store) if run.data.snapshot is None else None
    if pinned not in (None, newest.digest):
        with suppress(RunFileError):  # scans of it were forgotten; the newest one is without them
            load_snapshot(store, run.dataset, pinned, named_by=store.uri(pin_path(run)))


def fit(
    run: RunFile,
    fan_out: FanOut,
    on_progress: OnProgress = ignore_progress,
    *,
    fence: Guard = ALONE,
) -> FitSummary:
    """Fit every scan of the snapshot that has no latent yet; ``fence`` is checked before every commit.

    A range whose part is missing from storage is fitted again: the table's parts are listed when the stage begins and
    before it ends.

    Raises:
        LeaseLostError: another driver has taken the run over.
        RunFileError: the network is of other scans, or ranges are too large for curved latents.
        IntegrityError: not every packed scan is fitted or quarantined exactly once.
        QuarantineLimitError: more scans are quarantined than ``data.max_quarantined`` allows.
        WorkerDiedError: workers died on more scans than that; none of those is quarantined.
        Exception: a task's error that no scan caused (storage is down, a bug). All other tasks are finished first, so
            that running the stage again does only what is left.
    """
    store = ObjectStore(run.storage)
    run = with_task_size(run, store)
    target = locate_table(run, store)
    require_scans(target)
    network = load_network(store, target.network)
    _check_contract(network, target)
    settings = stored_settings(run, network)
    before, lost = latent_ledger.withdraw_lost(store, target.folder, fence)
    todo = cover(target.works, latent_ledger.settled(before))[1]
    quarantined = sum(commit.lost_units for commit in before.values() if not commit.failed)
    progress = _Progress(target.works, todo, quarantined, on_progress)
    _check_parts(todo, settings, settings.keep or network.spec.latent)
    tasks = _tasks(run, store, target, todo, settings, fan_out, fence)
    done_now = _run(run, target, tasks, fan_out, progress, Failures(store, target.folder, fence, target.units))
    summary = _summarise(store, target, done_now, settings.storage_type, settings.keep or network.spec.latent)
    _check_limit(run, summary)
    return replace(summary, lost_parts=lost)


def fit_again(run: RunFile, fan_out: FanOut, lost: Collection[str], *, fence: Guard = ALONE) -> int:
    """Fit the ranges that overlap those named ``lost``, whose records were removed, and no others; how many scans.

    Raises as ``fit`` does; a range that cannot be fitted raises its error, and nothing is quarantined.
    """
    store = ObjectStore(run.storage)
    run = with_task_size(run, store)
    target = locate_table(run, store)
    require_scans(target)
    settings = stored_settings(run, load_network(store, target.network))
    committed = latent_ledger.settled(latent_ledger.read_commits(store, target.folder))
    todo = [work for work in cover(target.works, committed)[1] if overlaps(work, lost)]
    outcomes = list(fan_out(fit_task, _tasks(run, store, target, todo, settings, fan_out, fence)))
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error
    return sum(work.units for work in todo)


def _run(
    run: RunFile,
    target: TableLocation,
    tasks: Sequence[FitTask],
    fan_out: FanOut,
    progress: _Progress,
    failures: Failures,
) -> list[Fitted]:
    """Map the tasks, dividing ranges whose worker dies; returns the results of the tasks that succeeded."""

    def divide(failed: Failed) -> list[FitTask]:
        pieces = pieces_of(failed, target.within_one_scan(failed.item.work))
        progress.divide(len(pieces))
        return pieces

    results = []
    for outcome in map_divided(fan_out, fit_task, tasks, divide):
        if isinstance(outcome, Done):
            results.append(outcome.result)
        elif not failures.settle(outcome):
            continue
        progress.advance(outcome.item.work, outcome.result.rows if isinstance(outcome, Done) else 0)
    failures.close(most=run.data.max_quarantined * target.scans)
    return results


class _Progress:
    """Counts ranges and scans, and reports them."""

    def __init__(
        self,
        works: Sequence[FitWork],
        todo: Sequence[FitWork],
        quarantined: int,
        on_progress: OnProgress,
    ) -> None:
        self._ranges, self._scans = len(works), sum(work.units for work in works)
        self._ranges_done = self._ranges - len(todo)
        self._scans_done = self._scans - sum(work.units for work in todo)
        self._quarantined, self._on_progress = quarantined, on_progress
        self._report()

    def divide(self, pieces: int) -> None:
        self._ranges += max(pieces - 1, 0)

    def advance(self, work: FitWork, fitted: int) -> None:
        self._ranges_done += 1
        self._scans_done += work.units
        self._quarantined += work.units - fitted
        self._report()

    def _report(self) -> None:
        tasks = f"{self._ranges_done}/{self._ranges}"
        notes: dict[str, float | str] = {"tasks": tasks, "quarantined": self._quarantined}
        self._on_progress(ProgressReport("fit", self._scans_done, self._scans, notes))


def task_of(run: RunFile, target: TableLocation, work: FitWork, settings: FitSettings, fence: Guard) -> FitTask:
    """All that a worker needs to fit the range."""
    return FitTask(
        worker=WorkerSettings.of(run),
        folder=target.folder,
        network=target.network,
        work=work,
        shape=tuple(target.snapshot.contract["shape"]) if target.grids is None else target.grids.size,
        settings=settings,
        learned_rates=run.fit.rate is None,
        batch=run.fit.batch,
        min_psnr=run.fit.min_psnr,
        fit_digest=fit_digest(run),
        fence=fence,
        grids=target.grids,
    )


def _tasks(
    run: RunFile,
    store: ObjectStore,
    target: TableLocation,
    todo: Sequence[FitWork],
    settings: FitSettings,
    fan_out: FanOut,
    fence: Guard,
) -> list[FitTask]:
    """What is left to do; curved latents' tables are decided first."""
    tasks = [task_of(run, target, work, settings, fence) for work in todo]
    if settings.storage_type != "curved" or not tasks:
        return tasks
    shards = require_possible(target.snapshot)
    commits = latent_ledger.read_commits(store, target.folder)
    begun = next((commit.part for _, commit in sorted(commits.items()) if commit.part is not None), None)
    trial = TableTrial(tasks[0], shards, run.fit.curved_loss)
    tables = decide_tables(store, target.folder, begun, trial, fan_out, fence)
    return [replace(task, tables=tables) for task in tasks]


def _check_contract(network: SharedNetwork, target: TableLocation) -> None:
    """RunFileError, before any task starts, unless the network was trained for scans of the snapshot's shape."""
    spec, contract = network.spec, target.snapshot.contract
    shape, channels = contract["shape"] if target.grids is None else target.grids.size, contract["channels"]
    if (spec.coords, spec.channels) != (len(shape), channels):
        raise RunFileError(
            f"the shared network takes {spec.coords} coordinates to {spec.channels} channels, but the data set holds "
            f"scans of shape {list(shape)} with {channels} channels",
            where="data.snapshot",
            do="fit a data set of the kind that the network was trained on, or train a network on this one",
        )


def _check_parts(todo: Sequence[FitWork], settings: FitSettings, numbers: int) -> None:
    """RunFileError, before any task starts, where a part would have more curved latents than readers take."""
    most = LARGEST_PART // (4 * numbers)
    if settings.storage_type == "curved" and any(work.units > most for work in todo):
        raise RunFileError(
            f"a part of {max(work.units for work in todo)} curved latents of {numbers} numbers is larger than any that "
            "is read",
            where="fit.scans_per_task",
            do=f"set it to {most} or less" if most else "choose another fit.storage_type",
        )


def _summarise(
    store: ObjectStore, target: TableLocation, results: Sequence[Fitted], storage_type: str, numbers: int
) -> FitSummary:
    """From the records in storage, not from the tasks' results."""
    commits = latent_ledger.read_commits(store, target.folder)
    counts = latent_ledger.reconcile(target.works, commits)
    mine = [commits[work.name] for work in cover(target.works, commits)[0]]
    latent_ledger.require_parts(store, target.folder, mine)
    psnr = latent_ledger.psnr_by_split(mine)
    if target.units is not None:
        counts, psnr = patch_totals(store, target.folder, target.works, commits, target.units)
    return FitSummary(
        folder=target.folder,
        dataset_digest=target.snapshot.digest,
        network_digest=target.network.digest,
        table_digest=latent_ledger.table_digest(mine),
        counts=counts,
        fitted_now=sum(result.rows for result in results if not result.earlier),
        found_committed=sum(result.earlier for result in results),
        quarantined=once(q for commit in mine for q in commit.quarantined),
        psnr=psnr,
        scans_per_task=target.scans_per_task,
        storage_type=storage_type,
        numbers=numbers,
        unsolved=latent_ledger.unsolved(mine),
        halved=any(result.halved for result in results),
        part_bytes=sum(commit.part.size for commit in mine if commit.part is not None),
        shared_bytes=tables_size(store, target.folder) if storage_type == "curved" else 0,
        patches=0 if target.units is None else sum(commit.rows for commit in mine),
    )


def _check_limit(run: RunFile, summary: FitSummary) -> None:
    counts = summary.counts
    correct = "read the reasons in the commit records, correct the cause, or raise data.max_quarantined"
    if any(scan.reason == DAMAGED_SHARD for scan in summary.quarantined):
        correct = f"{REPAIR}: it packs damaged and missing shards again from the archive; then run the fit stage again"
    if counts.quarantined > run.data.max_quarantined * counts.packed:
        raise QuarantineLimitError(
            f"{counts.quarantined} of {counts.packed} packed scans could not be fitted",
            where=f"data.max_quarantined allows a share of {run.data.max_quarantined}",
            do=correct,
        )
