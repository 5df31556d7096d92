"""Ways to go from one latent to a better one. Each is a class whose ``next`` takes the latents and what was seen there.
An object of it serves the scans of one block, from the first step to the last.

No scan's step depends on another scan of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.meta.inner_rates import Rate, inner_rates, of_step
from medfuncta_dist.meta.sweeps.folded import Folded

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-3, 1e6
"""Relative to the mean curvature. Below, rounding decides; above, a step is a millionth of a plain one."""
GROWTH = 4.0
"""Of λ after a step that made its scan worse."""
TRUST = (1 / 4, 2.0)
"""Of λ after a step that made it better, as far as the quadratic model held."""


@dataclass(frozen=True)
class Seen:
    """What one sweep saw: its context (indices), the gradient of each scan's loss by shifts, and the loss.

    Losses of two steps may be compared where the context is the same object.
    """

    context: Int[Tensor, " context"]
    by_shifts: Float[Tensor, "batch layer hidden"]
    losses: Float[Tensor, " batch"]
    whole: bool
    """The context was the whole grid."""
    curvature: Float[Tensor, "#batch latent latent"] | None = None
    """Each scan's Gauss-Newton matrix, or one for all scans; for ``GaussNewton`` alone."""


class Plain:
    """φ ← φ − α∇L: the published method. Learned rates (``meta/inner_rates.py``) take α's place where there are any.

    With ``momentum`` μ a heavy ball (Polyak 1964): v ← μv − α∇L, φ ← φ + v.
    """

    def __init__(self, network: Folded, rate: Rate, momentum: float = 0.0) -> None:
        self._network, self._rate, self._momentum = network, rate, momentum
        self._velocity: Tensor | None = None
        self._step = 0

    def next(self, latents: Float[Tensor, "batch latent"], seen: Seen) -> Float[Tensor, "batch latent"]:
        """The latents after the next step."""
        here = of_step(inner_rates(self._network.spec, self._rate, latents), self._step)
        move = -(here * self._network.pull_back_apart(seen.by_shifts, len(here))).sum(1)
        if self._momentum and self._velocity is not None:
            move.add_(self._velocity, alpha=self._momentum)
        self._velocity, self._step = move, self._step + 1
        return latents + move

    def settled(
        self, latents: Float[Tensor, "batch latent"], losses: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent"]:
        """The latents at the end, whose ``losses`` (at most those on all points) are known: as they are."""
        return latents


@dataclass(frozen=True)
class _Place:
    """Where a scan stands, and what was seen there."""

    latents: Float[Tensor, "batch latent"]
    gradient: Float[Tensor, "batch latent"]
    losses: Float[Tensor, " batch"]
    curvature: Float[Tensor, "#batch latent latent"]


class GaussNewton:
    """φ ← φ − (H + λ h̄ I)⁻¹ ∇L: H the scan's own Gauss-Newton matrix, h̄ its mean diagonal (Levenberg, Marquardt).

    Each scan has a λ of its own, which begins at ``damping``. A step that made its scan worse on the same context is
    taken back, and λ grows fourfold; after one that made it better, λ follows how much of the promised gain came true
    (Nielsen 1999): where the quadratic model holds it shrinks, where it does not it grows.
    """

    def __init__(self, network: Folded, damping: float) -> None:
        self._network, self._damping = network, damping
        self._relative: Tensor | None = None
        self._before: tuple[Seen, _Place, Tensor] | None = None
        """What the last step saw, where it stood, and the gain that it promised."""

    def next(self, latents: Float[Tensor, "batch latent"], seen: Seen) -> Float[Tensor, "batch latent"]:
        """The latents after the next step."""
        assert seen.curvature is not None
        if self._relative is None:
            self._relative = torch.full_like(latents[:, 0], self._damping)
        here = _Place(latents, self._network.pull_back(seen.by_shifts), seen.losses, seen.curvature)
        if self._before is not None and seen.context is self._before[0].context:
            here = self._take_back(here, *self._before[1:])
        shared = len(here.curvature) == 1
        step = damped_solution(here.curvature, self._relative[:1] if shared else self._relative, here.gradient)
        # What the quadratic model gains along −step: ½ stepᵀ(∇L + damping · step), where damping is what was added.
        added = here.curvature.diagonal(dim1=1, dim2=2).mean(1) * self._relative
        promised = 0.5 * (step * (here.gradient + added[:, None] * step)).sum(1)
        self._before = (seen, here, promised)
        return here.latents - step

    def _take_back(self, here: _Place, old: _Place, promised: Tensor) -> _Place:
        assert self._relative is not None
        better = here.losses <= old.losses  # False for what is not a number
        kept = (old.losses - here.losses) / promised
        factor = torch.where(better, (1 - (2 * kept - 1) ** 3).clamp(*TRUST), GROWTH)
        self._relative = (self._relative * factor).clamp(SMALLEST_DAMPING, LARGEST_DAMPING)
        return _Place(
            torch.where(better[:, None], here.latents, old.latents),
            torch.where(better[:, None], here.gradient, old.gradient),
            torch.where(better, here.losses, old.losses),
            torch.where(better[:, None, None], here.curvature, old.curvature),
        )

    def settled(
        self, latents: Float[Tensor, "batch latent"], losses: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent"]:
        """The latents at the end, likewise: a last step that made its scan worse is taken back as well."""
        if self._before is None or not self._before[0].whole:
            return latents
        old = self._before[1]
        return torch.where((losses <= old.losses)[:, None], latents, old.latents)


Steps = Plain | GaussNewton


def damped_solution(
    matrix: Float[Tensor, "#batch latent latent"],
    damping: Float[Tensor, " #batch"],
    right: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch latent"]:
    """(matrix + damping · mean diagonal · I)⁻¹ right, scan by scan."""
    damped = matrix.clone()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal += (damping * diagonal.mean(1))[:, None]
    # A scan that is not a number raises nothing, and harms no other. Upper: torch's own copies then take half the time.
    factor, _ = torch.linalg.cholesky_ex(damped, upper=True)
    if len(factor) == 1 < len(right):
        return torch.cholesky_solve(right.mT.contiguous(), factor[0], upper=True).mT
    return torch.cholesky_solve(right[..., None], factor, upper=True)[..., 0]
