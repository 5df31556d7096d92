"""The methods of fitting: how one step improves latents. ``METHODS`` lists them by the name in the run file.

An object of a method serves the scans of one block, from the first step to the last. No scan's step depends on another
scan of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medfuncta_dist.latents.curvature_forms import Curvature, take_back
from medfuncta_dist.meta.inner_rates import Rate, inner_rates, of_step
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.folded import Folded
from medfuncta_dist.meta.sweeps.inner_gradient import losses

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-3, 1e6
"""Relative to the mean curvature. Below, rounding errors dominate; above, a step is a millionth of a gradient step."""
GROWTH = 4.0
"""Factor of λ after a step that made its scan worse."""
TRUST = (1 / 4, 2.0)
"""Range of the factor of λ after a step that made its scan better, by how well the quadratic model predicted it."""


@dataclass(frozen=True)
class Seen:
    """One evaluation of a block: its context (indices), the gradient of each scan's loss by shifts, and the loss.

    Losses of two steps may be compared where the context is the same object.
    """

    context: Int[Tensor, " context"]
    by_shifts: Float[Tensor, "batch layer hidden"]
    losses: Float[Tensor, " batch"]
    whole: bool
    """Whether the context was the whole grid: only then do the losses tell the PSNR."""
    curvature: Curvature | None = None
    """The scans' Gauss-Newton matrices; only for methods with ``curved``."""
    counted: Bool[Tensor, " batch"] | None = None
    """Of which scans a point of the context has a weight: the others take no step. None where all count."""


@dataclass(frozen=True)
class Stepped:
    """The latents after a step, and for which scans it could be computed: the others stayed where they were."""

    latents: Float[Tensor, "batch latent"]
    solved: Bool[Tensor, " batch"]


@runtime_checkable
class Steps(Protocol):
    """What a method must provide."""

    def next(self, latents: Float[Tensor, "batch latent"], seen: Seen) -> Stepped:
        """The next step, given what was seen at the present latents."""
        ...

    def settled(self, final: Objective) -> Float[Tensor, "batch latent"]:
        """The final latents, given the block at those after the last step, on all points."""
        ...


class GradientDescent:
    """φ ← φ − α∇L: the published method. Learned rates (``meta/inner_rates.py``) take α's place where there are any.

    With ``momentum`` μ a heavy ball (Polyak 1964): v ← μv − α∇L, φ ← φ + v.
    """

    def __init__(self, network: Folded, rate: Rate, momentum: float = 0.0) -> None:
        self._network, self._rate, self._momentum = network, rate, momentum
        self._velocity: Tensor | None = None
        self._step = 0

    def next(self, latents: Float[Tensor, "batch latent"], seen: Seen) -> Stepped:
        """The next step, which there always is."""
        here = of_step(inner_rates(self._network.spec, self._rate, latents), self._step)
        move = -(here * self._network.pull_back_apart(seen.by_shifts, len(here))).sum(1)
        if self._momentum and self._velocity is not None:
            move.add_(self._velocity, alpha=self._momentum)
        self._velocity, self._step = move, self._step + 1
        return Stepped(latents + move, torch.ones_like(latents[:, 0], dtype=torch.bool))

    def settled(self, final: Objective) -> Float[Tensor, "batch latent"]:
        """The latents unchanged."""
        return final.latents


@dataclass(frozen=True)
class _Iterate:
    """The latents of a block, and their losses, gradients and curvatures."""

    latents: Float[Tensor, "batch latent"]
    gradient: Float[Tensor, "batch latent"]
    losses: Float[Tensor, " batch"]
    curvature: Curvature


class GaussNewton:
    """φ ← φ − (H + λ h̄ I)⁻¹ ∇L: H the scan's own Gauss-Newton matrix, h̄ its mean diagonal (Levenberg, Marquardt).

    Each scan has a λ of its own, which begins at ``damping``. A step that made its scan worse on the same context is
    reverted, and λ grows fourfold; after one that made it better, λ shrinks or grows with the share of the predicted
    gain that was realised (Nielsen 1999). A scan whose damped matrix has no Cholesky factor takes no step, and its λ
    grows as after a worse one.
    """

    def __init__(self, network: Folded, damping: float) -> None:
        self._network, self._damping = network, damping
        self._relative: Tensor | None = None
        self._before: tuple[Seen, _Iterate, Tensor] | None = None
        """What was seen before the last step, the latents there, and the predicted gain."""

    def next(self, latents: Float[Tensor, "batch latent"], seen: Seen) -> Stepped:
        """The next step, of every scan whose damped curvature has a factor."""
        assert seen.curvature is not None
        if self._relative is None:
            self._relative = torch.full_like(latents[:, 0], self._damping)
        here = _Iterate(latents, self._network.pull_back(seen.by_shifts), seen.losses, seen.curvature)
        if self._before is not None and seen.context is self._before[0].context:
            here = self._revert_worse(here, *self._before[1:])
        self._before = None  # the matrices there are no longer needed
        step, solved = here.curvature.damped_solution(self._relative, here.gradient)
        # The quadratic model's gain along −step: ½ stepᵀ(∇L + damping · step), with the damping that was added.
        added = here.curvature.mean_diagonal * self._relative
        predicted = 0.5 * (step * (here.gradient + added[:, None] * step)).sum(1)
        self._relative = torch.where(solved, self._relative, _changed(self._relative, GROWTH))
        self._before = (seen, here, torch.where(solved, predicted, 0))
        return Stepped(here.latents - step, solved)

    def _revert_worse(self, here: _Iterate, previous: _Iterate, predicted: Tensor) -> _Iterate:
        assert self._relative is not None
        better = here.losses <= previous.losses  # False for NaN
        realised = (previous.losses - here.losses) / predicted
        factor = torch.where(better, (1 - (2 * realised - 1) ** 3).clamp(*TRUST), GROWTH)
        # Nothing was predicted of a scan that took no step, or whose gradient is zero: that tells nothing about λ.
        self._relative = torch.where(predicted == 0, self._relative, _changed(self._relative, factor))
        take_back(better, here.curvature, previous.curvature)
        return _Iterate(
            torch.where(better[:, None], here.latents, previous.latents),
            torch.where(better[:, None], here.gradient, previous.gradient),
            torch.where(better, here.losses, previous.losses),
            here.curvature,
        )

    def settled(self, final: Objective) -> Float[Tensor, "batch latent"]:
        """A last step that made its scan worse is reverted as well.

        Like is compared with like: on the last step's own context, before latents are rounded and values clamped. One
        sweep forward.
        """
        if self._before is None:
            return final.latents
        seen, previous, _ = self._before
        better = losses(final.on(seen.context)) <= previous.losses
        return torch.where(better[:, None], final.latents, previous.latents)


Method = Literal["sgd", "momentum", "gauss-newton"]


@runtime_checkable
class StepSettings(Protocol):
    """What methods read of ``FitSettings``."""

    @property
    def rate(self) -> Rate: ...
    @property
    def momentum(self) -> float: ...
    @property
    def damping(self) -> float: ...


@dataclass(frozen=True)
class MethodEntry:
    """A method of fitting: how to start it on a block, and whether its steps need each scan's curvature."""

    start: Callable[[Folded, StepSettings], Steps]
    curved: bool = False


METHODS: dict[str, MethodEntry] = {
    "sgd": MethodEntry(lambda network, settings: GradientDescent(network, settings.rate)),
    "momentum": MethodEntry(lambda network, settings: GradientDescent(network, settings.rate, settings.momentum)),
    "gauss-newton": MethodEntry(lambda network, settings: GaussNewton(network, settings.damping), curved=True),
}


def _changed(relative: Float[Tensor, " batch"], factor: Tensor | float) -> Float[Tensor, " batch"]:
    """λ times a factor, kept in its range."""
    return (relative * factor).clamp(SMALLEST_DAMPING, LARGEST_DAMPING)
