"""What training the shared network adds to the loop: held-out PSNR, signs of a collapse, the network at the end."""

from __future__ import annotations

from collections.abc import Iterable

from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.network.run_artifacts import dataset_artifact, network_artifact
from medfuncta_dist.telemetry.event_log import history
from medfuncta_dist.telemetry.goodput import FINISHED
from medfuncta_dist.training.checkpoints.checkpoint_saver import CheckpointSaver
from medfuncta_dist.training.feed import Feed
from medfuncta_dist.training.rank_setup import RankContext, RestoredNetwork
from medfuncta_dist.training.reporting.collapse import ADVICE, CollapseDetector, CollapseKind
from medfuncta_dist.training.train_worker import StepResult, TrainLoop
from medfuncta_dist.training.validation import Validation


class NetworkLoop(TrainLoop):
    """The outer steps of one rank of one attempt."""

    feed: Feed

    def __init__(self, rank: RankContext, restored: RestoredNetwork, saver: CheckpointSaver) -> None:
        super().__init__(rank, restored, saver)
        rank.leader.artifact(dataset_artifact(self.feed.snapshot), "input")
        self.collapse = CollapseDetector(self.run.train.steps)
        self.validation: Validation | None = None
        self.last_trained: Trained | None = None

    @property
    def validates(self) -> bool:
        """Whether there are held-out scans."""
        return self.validation is not None

    def finish(self) -> None:
        """Read the held-out scans, then take the steps."""
        self.validation = self.feed.validation()
        super().finish()

    def watch(self, result: StepResult) -> None:
        """Report signs of a collapse."""
        self._warn(result.step, self.collapse.after_step(result.step, result.loss, result.scatter))

    def validate(self, step: int) -> None:
        """Measure the held-out PSNR."""
        assert self.validation is not None
        trained = self._trained(step)
        first_time = not self.heartbeat.has_been_in("validating")
        self.heartbeat.set_phase("validating", step, may_be_slow=first_time)
        psnr = self.validation.psnr(trained, self.learner.coordinates)
        self.leader.log_validation(step, psnr, self.validation.picture)
        self._warn(step, self.collapse.after_validation(psnr))

    def write_result(self) -> None:
        """Write the network, and the record that makes it the run's."""
        trained = self._trained(self.run.train.steps)
        self.heartbeat.set_phase("writing the network", self.run.train.steps, may_be_slow=True)
        if not self.world.is_leader:
            return
        self.leader.flush()
        loss, psnr = self._last_logged("loss"), self._last_logged("psnr")
        done = commit_network(self.store, self.run, self.feed.snapshot, trained, loss, psnr, self.rank.fence)
        self.leader.event(FINISHED, step=done.step, network=done.digest)
        with_files = self.run.telemetry.networks
        self.leader.artifact(network_artifact(self.run.name, done, self.store, with_files=with_files), "output")

    def _trained(self, step: int) -> Trained:
        """The network as it is after ``step`` outer steps, ready to fit with. A collective.

        It takes minutes where F is thousands; that of the last step is made once, for validation and to be written.
        """
        if self.last_trained is not None:
            return self.last_trained
        self.heartbeat.set_phase("preparing the network for fitting", step, may_be_slow=True)
        scans = self.feed.finishing_scans(self.learner.scans_to_finish)
        trained = self.learner.trained(self.engine.full_parameters(), scans)
        if self.is_last(step):
            self.last_trained = trained
        return trained

    def _warn(self, step: int, kinds: Iterable[CollapseKind]) -> None:
        """Report that training goes wrong. It goes on: people may know better, and can ask it to stop."""
        for kind in kinds:
            self.leader.event("collapse", step=step, finding=kind)
            self.leader.notify(f"outer step {step}: {ADVICE[kind]}")

    def _last_logged(self, metric: str) -> float | None:
        found = history(self.store, self.run.name, metric, self.leader.notify)
        return found[-1][1] if found else None
