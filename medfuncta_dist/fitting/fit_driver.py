"""The driver's side of fitting: which ranges are left, what came of them, and whether the count closes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import QuarantineLimitError, RunFileError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_failures import Failures, pieces_of
from medfuncta_dist.fitting.fit_plan import FitWork, cover, plan, ranges
from medfuncta_dist.fitting.fit_task import FitTask, Fitted, fit_task
from medfuncta_dist.fitting.latent_ledger import Counts, Quarantined, Spread
from medfuncta_dist.fitting.worker_settings import WorkerSettings
from medfuncta_dist.network.core_settings import fit_settings
from medfuncta_dist.network.network_loader import NetworkRef, load_network, published_network
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard
from medfuncta_dist.task_map import Done, Failed, FanOut, map_divided


@dataclass(frozen=True)
class TableLocation:
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
    quarantined: int = 0


@dataclass(frozen=True)
class FitSummary:
    """What the table holds when the stage is over. ``fitted_now`` counts the scans of this run of the stage."""

    folder: str
    dataset_digest: str
    network_digest: str
    counts: Counts
    fitted_now: int
    found_committed: int
    """Ranges that a task of this run found committed by a copy of itself, and did not fit again."""
    quarantined: list[Quarantined]
    psnr: dict[str, Spread]


def fit_digest(run: RunFile) -> str:
    """SHA-256 of every setting that can change a latent; which splits are wanted is not one of them."""
    sections = run.parts(lambda key: key.in_fit_digest).values()
    settings = {key: value for section in sections for key, value in section.items()}
    return digest_json(settings | {"rate": run.fit_rate})


def latent_folder(run: RunFile, network_digest: str) -> str:
    """Folder of the latent table, relative to the storage root."""
    return f"runs/{run.name}/latents/{network_digest[:16]}-{fit_digest(run)[:16]}"


def locate_table(run: RunFile, store: ObjectStore) -> TableLocation:
    """The table that this run file describes. StageOrderError before its data set and its network are complete."""
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    network = published_network(store, run.name)
    works = ranges(snapshot, run.fit.splits, run.fit.scans_per_task)
    return TableLocation(latent_folder(run, network.digest), snapshot, network, works)


def fit(
    run: RunFile,
    fan_out: FanOut,
    on_progress: Callable[[FitProgress], None] = lambda _: None,
    *,
    fence: Guard = ALONE,
) -> FitSummary:
    """Fit every scan of the snapshot that has no latent yet; ``fence`` is passed before every commit.

    Raises:
        LeaseLostError: another driver has taken the run over.
        IntegrityError: the ledger does not close.
        QuarantineLimitError: more scans are quarantined than ``data.max_quarantined`` allows.
        WorkerDiedError: workers died on more scans than that; none of those is quarantined.
        Exception: a task's own error, when it says nothing about scans (storage is down, a bug). Everything else is
            finished first, so that running the stage again does only what is left.
    """
    store = ObjectStore(run.storage)
    target = locate_table(run, store)
    _check_contract(store, target)
    before = latent_ledger.read_commits(store, target.folder)
    todo = plan(target.snapshot, run.fit.splits, latent_ledger.settled(before), run.fit.scans_per_task)
    lost = sum(len(commit.quarantined) for commit in before.values() if not commit.failed)
    progress = _Progress(target.works, todo, lost, on_progress)
    done_now = _run(run, target, todo, fan_out, progress, Failures(store, target.folder, fence), fence)
    summary = _summarise(store, target, done_now)
    _check_limit(run, summary)
    return summary


def _run(
    run: RunFile,
    target: TableLocation,
    todo: Sequence[FitWork],
    fan_out: FanOut,
    progress: _Progress,
    failures: Failures,
    fence: Guard,
) -> list[Fitted]:
    """Map the tasks, dividing ranges whose worker dies; returns what succeeded tasks answered."""

    def divide(failed: Failed) -> list[FitTask]:
        pieces = pieces_of(failed)
        progress.divide(len(pieces))
        return pieces

    answers = []
    for outcome in map_divided(fan_out, fit_task, [_task(run, target, work, fence) for work in todo], divide):
        if isinstance(outcome, Done):
            answers.append(outcome.result)
        elif not failures.settle(outcome):
            continue
        progress.advance(outcome.item.work, outcome.result.rows if isinstance(outcome, Done) else 0)
    failures.close(most=run.data.max_quarantined * sum(work.scans for work in target.works))
    return answers


class _Progress:
    """Counts ranges and scans, and tells."""

    def __init__(
        self,
        works: Sequence[FitWork],
        todo: Sequence[FitWork],
        quarantined: int,
        on_progress: Callable[[FitProgress], None],
    ) -> None:
        self._ranges, self._scans = len(works), sum(work.scans for work in works)
        self._ranges_done = self._ranges - len(todo)
        self._scans_done = self._scans - sum(work.scans for work in todo)
        self._quarantined, self._on_progress = quarantined, on_progress
        self._tell()

    def divide(self, pieces: int) -> None:
        self._ranges += max(pieces - 1, 0)

    def advance(self, work: FitWork, fitted: int) -> None:
        self._ranges_done += 1
        self._scans_done += work.scans
        self._quarantined += work.scans - fitted
        self._tell()

    def _tell(self) -> None:
        counts = (self._ranges_done, self._ranges, self._scans_done, self._scans, self._quarantined)
        self._on_progress(FitProgress(*counts))


def _task(run: RunFile, target: TableLocation, work: FitWork, fence: Guard) -> FitTask:
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
        fence=fence,
    )


def _check_contract(store: ObjectStore, target: TableLocation) -> None:
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


def _summarise(store: ObjectStore, target: TableLocation, answers: Sequence[Fitted]) -> FitSummary:
    """Told from the records as they now lie in storage, not from what tasks answered."""
    commits = latent_ledger.read_commits(store, target.folder)
    counts = latent_ledger.reconcile(target.works, commits)
    mine = [commits[work.name] for work in cover(target.works, commits)[0]]
    return FitSummary(
        folder=target.folder,
        dataset_digest=target.snapshot.digest,
        network_digest=target.network.digest,
        counts=counts,
        fitted_now=sum(answer.rows for answer in answers if not answer.earlier),
        found_committed=sum(answer.earlier for answer in answers),
        quarantined=[q for commit in mine for q in commit.quarantined],
        psnr=latent_ledger.psnr_by_split(mine),
    )


def _check_limit(run: RunFile, summary: FitSummary) -> None:
    counts = summary.counts
    if counts.quarantined > run.data.max_quarantined * counts.packed:
        raise QuarantineLimitError(
            f"{counts.quarantined} of {counts.packed} packed scans could not be fitted",
            where=f"data.max_quarantined allows a share of {run.data.max_quarantined}",
            do="look at the reasons in the commit records; when the rest is worth having, raise data.max_quarantined",
        )
