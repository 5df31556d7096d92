"""What training a prior adds to the loop: the loss on held-out latents. Imported in workers only (deepspeed)."""

from __future__ import annotations

import torch

from medfuncta_dist.prior.prior_feed import PriorFeed
from medfuncta_dist.prior.prior_learner import PriorLearner
from medfuncta_dist.telemetry.goodput import FINISHED
from medfuncta_dist.training.train_worker import TrainLoop

ROWS = 1024
"""Held-out latents at once."""


class PriorLoop(TrainLoop):
    """The steps of one rank of one attempt."""

    feed: PriorFeed
    learner: PriorLearner

    @property
    def validates(self) -> bool:
        """A prior is not trained without held-out latents."""
        return True

    @torch.no_grad()
    def validate(self, step: int) -> None:
        """Log the mean loss on held-out latents: where it rises, the prior learns training scans by heart."""
        self.heartbeat.set_phase("validating", step, waits_for_others=True)
        params, (targets, contexts) = self.engine.full_parameters(), self.feed.validation()
        total = 0.0
        for start in range(0, len(targets), ROWS):
            rows = slice(start, start + ROWS)
            total += float(self.learner.losses_of(params, targets[rows], [c[rows] for c in contexts]).sum())
        total, count = self.world.sum([total, len(targets)])
        self.leader.log(step, held_out_loss=total / count)

    def write_result(self) -> None:
        """Say that it is done: the driver makes the prior of the last checkpoint."""
        self.leader.event(FINISHED, step=self.run.train.steps)
