"""What the training loop trains: the shared network, or another model that learns step by step from what a run has.

A subject says where a rank's inputs come from, which learner takes the steps, and what is written in the end. All else
is the same for every subject: ranks and their restarts, checkpoints, preemption, exchange of gradients, reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.device_transfer import Contexts, Placed
from medfuncta_dist.training.world import World

if TYPE_CHECKING:
    from medfuncta_dist.training.checkpoints.checkpoint_saver import CheckpointSaver
    from medfuncta_dist.training.rank_setup import RankContext, RestoredNetwork
    from medfuncta_dist.training.train_worker import TrainLoop


class Inputs(Protocol):
    """A rank's part of every global batch: the same batches at any number of ranks."""

    @property
    def digest(self) -> str:
        """Of all that is trained on: a checkpoint of other inputs is refused."""
        ...

    def batches(self, first: int) -> AbstractContextManager[Iterable[Placed]]:
        """This rank's rows of every global batch from step ``first`` (0-based) on."""
        ...

    def epoch_and_batch(self, step: int) -> tuple[int, int]:
        """Epoch and batch of a step (0-based)."""
        ...

    def inputs(self, targets: Tensor, contexts: Contexts) -> tuple[Any, ...]:
        """The arguments of the learner's forward. One must require grad."""
        ...

    def zero_inputs(self) -> tuple[Any, ...]:
        """The same arguments, of zeros."""
        ...


class Subject(Protocol):
    """What is trained. Sent to the workers by pickle, so its own modules must not import deepspeed."""

    def placed(self, run: RunFile) -> RunFile:
        """The run file as the loop takes it: its ``train``, and the ``name`` below which it keeps its files."""
        ...

    def feed(self, run: RunFile, store: ObjectStore, world: World) -> Inputs:
        """This rank's inputs."""
        ...

    def learner(self, run: RunFile, feed: Any) -> Learner:
        """The learner before its first step, the same on every rank; ``feed``: as this subject made it."""
        ...

    def start(self, run: RunFile, store: ObjectStore, learner: Learner) -> Params | None:
        """Parameters to begin with in place of the learner's own; None for those."""
        ...

    def loop(self, rank: RankContext, restored: RestoredNetwork, saver: CheckpointSaver) -> TrainLoop:
        """The loop that takes its steps. Called in workers only, where deepspeed may be imported."""
        ...
