"""The outer optimiser: AdamW, or Muon for the hidden matrices with AdamW for all else, as one object.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the size of its step: arXiv 2502.16982.
"""

from __future__ import annotations

from typing import Any

from torch.optim import AdamW, Muon, Optimizer

from medfuncta_dist.config.run_file import Train
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.training.groups import parameter_groups, taken_by_muon


def outer_optimizer(learner: MetaLearner, train: Train) -> Optimizer:
    """What ``train.optimizer`` asks for; its groups hold each parameter once, with its share of the rate."""
    matrices = taken_by_muon(learner.spec, train)
    if not matrices:
        return AdamW(parameter_groups(learner, train), lr=train.rate)
    # As far as a step of AdamW goes, so that a rate means the same with either.
    muon = Muon(parameter_groups(learner, train, matrices), lr=train.rate, adjust_lr_fn="match_rms_adamw")
    others = learner.shapes.keys() - set(matrices)
    return Together(muon, AdamW(parameter_groups(learner, train, others), lr=train.rate))


class Together(Optimizer):
    """Optimisers of different parameters as one, since DeepSpeed takes one: their groups, their state, their steps."""

    def __init__(self, *parts: Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step of each; a loss to be computed again has no place in training, so ``closure`` must be None."""
        assert closure is None
        for part in self._parts:
            part.step()
