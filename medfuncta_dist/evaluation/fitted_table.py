"""The latent table of a run, complete, with what it takes to decode and compare its scans."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import StageOrderError
from medfuncta_dist.evaluation.original_scans import Pick
from medfuncta_dist.evaluation.score_task import ScoreTask
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation, require_scans
from medfuncta_dist.fitting.fit_plan import cover
from medfuncta_dist.fitting.latent_ledger import Commit, Counts
from medfuncta_dist.fitting.whole_scans import locate_whole_scans
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.worker_settings import WorkerSettings


@dataclass(frozen=True)
class FittedTable:
    """The latent table when it was opened: all of its ranges are committed."""

    store: ObjectStore
    worker: WorkerSettings
    target: TableLocation
    commits: dict[str, Commit]
    counts: Counts
    network: SharedNetwork
    storage: Storage | None
    """How it stores latents; None where it has none."""

    def score_tasks(self) -> list[ScoreTask]:
        """A task for each part, in the snapshot's order. StageOrderError where no scan has a latent."""
        tasks = []
        for work in self.target.works:
            part = self.commits[work.name].part
            if part is not None:
                tasks.append(ScoreTask(self.worker, self.target.folder, self.target.network, work, part))
        if not tasks:
            raise StageOrderError(
                "no scan has a latent",
                where=self.target.folder,
                do="read the reasons in the fit stage's commit records",
            )
        return tasks

    def picks(self, rows: pa.Table) -> tuple[Pick, ...]:
        """Where the originals of these rows (``shard``, ``row``) are."""
        shards = {work.shard.sha256: work.shard for work in self.target.works}
        places = zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True)
        return tuple(Pick(shards[shard], row) for shard, row in places)


def open_fitted(run: RunFile) -> FittedTable:
    """Open a run's latent table.

    Raises:
        StageOrderError: the fit stage has not finished.
        IntegrityError: a part of the latent table is missing.
    """
    store = ObjectStore(run.storage)
    target = locate_whole_scans(run, store, "evaluating or comparing")
    require_scans(target)
    commits = latent_ledger.read_commits(store, target.folder)
    done, missing = cover(target.works, commits)
    if missing:
        raise StageOrderError(
            f"{sum(work.units for work in missing)} packed scans have no latent yet",
            where=store.uri(target.folder),
            do="run the fit stage first, and let it finish",
        )
    counts = latent_ledger.reconcile(done, commits)
    mine = {work.name: commits[work.name] for work in done}
    latent_ledger.require_parts(store, target.folder, mine.values())
    network = load_network(store, target.network)
    storage = latent_ledger.storage_of(store, target.folder, mine)
    return FittedTable(store, WorkerSettings.of(run), replace(target, works=done), commits, counts, network, storage)
