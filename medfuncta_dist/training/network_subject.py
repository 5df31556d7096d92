"""The shared network as a subject of training: scans of a snapshot in, a meta-learned network out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.network.core_settings import new_learner
from medfuncta_dist.network.start_network import first_params, load_start
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.training.world import World

if TYPE_CHECKING:
    from medfuncta_dist.training.checkpoints.checkpoint_saver import CheckpointSaver
    from medfuncta_dist.training.feed import Feed
    from medfuncta_dist.training.rank_setup import RankContext, RestoredNetwork
    from medfuncta_dist.training.train_worker import TrainLoop


@dataclass(frozen=True)
class NetworkSubject:
    """A run's shared network. ``snapshot``: the digest of what it is trained on."""

    snapshot: str

    def placed(self, run: RunFile) -> RunFile:
        """The run as it is."""
        return run

    def feed(self, run: RunFile, store: ObjectStore, world: World) -> Feed:
        """This rank's scans."""
        from medfuncta_dist.training.feed import Feed  # with webdataset, which a driver does not need

        return Feed(run, store, load_snapshot(store, run.dataset, self.snapshot), world)

    def learner(self, run: RunFile, feed: Feed) -> Learner:
        """The meta-learner of the run's kind of field."""
        return new_learner(run)

    def start(self, run: RunFile, store: ObjectStore, learner: Learner) -> Params | None:
        """Those of the network that the run file says to start from."""
        found = load_start(run.name, store)
        return None if found is None else first_params(learner, found)

    def loop(self, rank: RankContext, restored: RestoredNetwork, saver: CheckpointSaver) -> TrainLoop:
        """With held-out PSNR, signs of a collapse, and the network at the end."""
        from medfuncta_dist.training.network_loop import NetworkLoop

        return NetworkLoop(rank, restored, saver)
