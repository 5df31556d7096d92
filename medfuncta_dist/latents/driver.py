"""The driver's side of fitting: which ranges are left, what came of them, and whether the count closes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    FormatVersionError,
    IntegrityError,
    MedfunctaError,
    QuarantineLimitError,
    RunFileError,
    ScanError,
)
from medfuncta_dist.latents import ledger
from medfuncta_dist.latents.ledger import Commit, Counts, Quarantined, Spread
from medfuncta_dist.latents.network import NetworkRef, load_network, published_network
from medfuncta_dist.latents.plan import FitWork, plan, ranges
from medfuncta_dist.latents.settings import fit_settings
from medfuncta_dist.latents.task import FitTask, fit_task
from medfuncta_dist.latents.worker import WorkerSettings
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot, read_index
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.work import Done, Failed, FanOut

DAMAGED_SHARD = "its shard is damaged"


@dataclass(frozen=True)
class LatentTable:
    """Where a run's latents are, and what they are latents of."""

    folder: str
    snapshot: Snapshot
    network: NetworkRef
    works: list[FitWork]
    """Every range that belongs to it, fitted or not."""

    @property
    def shards(self) -> set[str]:
        """SHA-256 of the shards it covers."""
        return {work.shard.sha256 for work in self.works}


@dataclass(frozen=True)
class FitProgress:
    """How far the stage is, in ranges and in scans, earlier runs included."""

    ranges_done: int
    ranges: int
    scans_done: int
    scans: int


@dataclass(frozen=True)
class FitSummary:
    """What the table holds when the stage is over. ``fitted_now`` counts the scans of this run of the stage."""

    folder: str
    dataset_digest: str
    network_digest: str
    counts: Counts
    fitted_now: int
    quarantined: list[Quarantined]
    psnr: dict[str, Spread]


def fit_digest(run: RunFile) -> str:
    """SHA-256 of every setting that can change a latent; which splits are wanted is not one of them."""
    settings = run.fit.model_dump(mode="json", exclude={"splits"})
    return digest_json(settings | {"rate": run.fit_rate, "seed": run.train.seed})


def latent_folder(run: RunFile, network_digest: str) -> str:
    """Folder of the latent table, relative to the storage root."""
    return f"runs/{run.name}/latents/{network_digest[:16]}-{fit_digest(run)[:16]}"


def latent_table(run: RunFile, store: ObjectStore) -> LatentTable:
    """The table that this run file describes. StageOrderError before its data set and its network are complete."""
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    network = published_network(store, run.name)
    works = ranges(snapshot, run.fit.splits, run.fit.scans_per_task)
    return LatentTable(latent_folder(run, network.digest), snapshot, network, works)


def fit(
    run: RunFile,
    fan_out: FanOut,
    on_progress: Callable[[FitProgress], None] = lambda _: None,
    *,
    fence: Fence | None = None,
) -> FitSummary:
    """Fit every scan of the snapshot that has no latent yet; ``fence`` is passed before every commit.

    Raises:
        LeaseLostError: another driver has taken the run over.
        IntegrityError: the ledger does not close.
        QuarantineLimitError: more scans are quarantined than ``data.max_quarantined`` allows.
        Exception: a task's own error, when it says nothing about scans (storage is down, a bug). Everything else is
            finished first, so that running the stage again does only what is left.
    """
    store = ObjectStore(run.storage)
    target = latent_table(run, store)
    _check_contract(store, target)
    before = ledger.read_commits(store, target.folder)
    todo = plan(target.snapshot, run.fit.splits, ledger.settled(before), run.fit.scans_per_task)
    fitted_now = _run(run, store, target, todo, fan_out, on_progress)
    summary = _summarise(store, target, fitted_now)
    _check_limit(run, summary)
    return summary


def _run(
    run: RunFile,
    store: ObjectStore,
    target: LatentTable,
    todo: Sequence[FitWork],
    fan_out: FanOut,
    on_progress: Callable[[FitProgress], None],
) -> int:
    """Map the tasks; returns the number of scans fitted. Raises the first error that is not about scans, at the end."""
    progress = _Progress(target.works, todo, on_progress)
    fitted, errors = 0, []
    for outcome in fan_out(fit_task, [_task(run, target, work) for work in todo]):
        error = _settle(store, target.folder, outcome) if isinstance(outcome, Failed) else None
        if error is not None:
            errors.append(error)
            continue
        fitted += outcome.result.rows if isinstance(outcome, Done) else 0
        progress.advance(outcome.item.work)
    if errors:
        raise errors[0]
    return fitted


class _Progress:
    """Counts ranges and scans, and tells."""

    def __init__(
        self, works: Sequence[FitWork], todo: Sequence[FitWork], on_progress: Callable[[FitProgress], None]
    ) -> None:
        self._ranges, self._scans = len(works), sum(work.scans for work in works)
        self._ranges_done = self._ranges - len(todo)
        self._scans_done = self._scans - sum(work.scans for work in todo)
        self._on_progress = on_progress
        self._tell()

    def advance(self, work: FitWork) -> None:
        self._ranges_done += 1
        self._scans_done += work.scans
        self._tell()

    def _tell(self) -> None:
        self._on_progress(FitProgress(self._ranges_done, self._ranges, self._scans_done, self._scans))


def _task(run: RunFile, target: LatentTable, work: FitWork) -> FitTask:
    return FitTask(
        worker=WorkerSettings.of(run),
        folder=target.folder,
        network=target.network,
        work=work,
        shape=tuple(target.snapshot.contract["shape"]),
        settings=fit_settings(run),
        learned_rates=run.fit.rate is None,
        batch=run.fit.batch,
        min_psnr=run.fit.min_psnr,
        fit_digest=fit_digest(run),
    )


def _check_contract(store: ObjectStore, target: LatentTable) -> None:
    """The network must have been made for scans of the snapshot's shape; better known before a thousand tasks start."""
    spec = load_network(store, target.network).spec
    shape, channels = target.snapshot.contract["shape"], target.snapshot.contract["channels"]
    if (spec.coords, spec.channels) != (len(shape), channels):
        raise RunFileError(
            f"the shared network takes {spec.coords} coordinates to {spec.channels} channels, but the data set holds "
            f"scans of shape {list(shape)} with {channels} channels",
            where="data.snapshot",
            do="fit a data set of the kind that the network was trained on, or train a network on this one",
        )


def _about_scans(error: Exception) -> bool:
    # An unknown format is a matter of versions: no scan is at fault, and quarantining would hide it.
    return isinstance(error, ScanError | IntegrityError) and not isinstance(error, FormatVersionError)


def _settle(store: ObjectStore, folder: str, failed: Failed) -> Exception | None:
    """Quarantine the range of a failed task; the error that remains where no scan is at fault, or its keys are lost."""
    if not _about_scans(failed.error):
        return failed.error
    try:
        _quarantine(store, folder, failed.item.work, failed.error)
    except MedfunctaError as error:
        return error
    return None


def _quarantine(store: ObjectStore, folder: str, work: FitWork, error: Exception) -> None:
    reason = error.what if isinstance(error, ScanError) else DAMAGED_SHARD
    keys = read_index(store, work.shard)["key"].to_pylist()[work.start : work.stop]
    quarantined = tuple(Quarantined(key, reason) for key in keys)
    commit = Commit(work.split, work.shard.sha256, work.start, work.stop, 0, None, quarantined, failed=True)
    ledger.write_commit(store, folder, work, commit)


def _summarise(store: ObjectStore, target: LatentTable, fitted_now: int) -> FitSummary:
    """Told from the records as they now lie in storage, not from what tasks answered."""
    commits = ledger.read_commits(store, target.folder)
    counts = ledger.reconcile(target.works, commits)
    mine = [commits[work.name] for work in target.works]
    return FitSummary(
        folder=target.folder,
        dataset_digest=target.snapshot.digest,
        network_digest=target.network.digest,
        counts=counts,
        fitted_now=fitted_now,
        quarantined=[q for commit in mine for q in commit.quarantined],
        psnr=ledger.psnr_by_split(mine),
    )


def _check_limit(run: RunFile, summary: FitSummary) -> None:
    counts = summary.counts
    if counts.quarantined > run.data.max_quarantined * counts.packed:
        raise QuarantineLimitError(
            f"{counts.quarantined} of {counts.packed} packed scans could not be fitted",
            where=f"data.max_quarantined allows a share of {run.data.max_quarantined}",
            do="look at the reasons in the commit records; when the rest is worth having, raise data.max_quarantined",
        )
