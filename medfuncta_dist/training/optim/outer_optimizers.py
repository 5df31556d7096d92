"""The outer optimiser: AdamW, or Muon for the hidden matrices with AdamW for all else, as one object.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the size of its step: arXiv 2502.16982.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.training.optim.parameter_groups import muon_parameters, parameter_groups


def outer_optimizer(learner: Learner, train: Train) -> torch.optim.Optimizer:
    """The optimiser that ``train.optimizer`` names; its groups hold each parameter once, with its share of the rate."""
    matrices = muon_parameters(learner.spec, train)
    if not matrices:
        alone: torch.optim.Optimizer = _AdamW(parameter_groups(learner, train), lr=train.rate)
        return alone
    # As far as a step of AdamW goes, so that a rate means the same with either.
    muon = _Muon(parameter_groups(learner, train, matrices), lr=train.rate, adjust_lr_fn="match_rms_adamw")
    others = learner.shapes.keys() - set(matrices)
    return CombinedOptimizer(muon, _AdamW(parameter_groups(learner, train, others), lr=train.rate))


def _uncompiled(kind: type[torch.optim.Optimizer]) -> Any:
    """The same optimiser without the decorators of its methods, which import torch's compiler only to disable it.

    Outer steps are never compiled, and the import takes a second of CPU time per worker at each restart.
    """
    add, zero, step = (inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "step"))
    return type(kind.__name__, (kind,), {"add_param_group": add, "zero_grad": zero, "step": torch.no_grad()(step)})


_AdamW, _Muon = _uncompiled(torch.optim.AdamW), _uncompiled(torch.optim.Muon)


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimisers of different parameters as one, since DeepSpeed takes one: their groups, their state, their steps."""

    add_param_group, zero_grad = (
        inspect.unwrap(torch.optim.Optimizer.add_param_group),
        _Muon.zero_grad,
    )  # as _uncompiled

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step of each. No outer step computes its loss again, so ``closure`` must be None."""
        assert closure is None
        for part in self._parts:
            part.step()
