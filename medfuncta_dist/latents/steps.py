"""Ways to go from one latent to a better one. Each is a class whose ``next`` takes the latents and what was seen there.
An object of it serves the scans of one block, from the first step to the last.

No scan's step depends on another scan of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.latents.curvature import curvature
from medfuncta_dist.meta.chunks import Chunks
from medfuncta_dist.meta.folded import Folded
from medfuncta_dist.meta.inner_rates import Rate, inner_rates, of_step

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-3, 1e6
"""Relative to the mean curvature. Below, rounding decides; above, a step is a millionth of a plain one."""
GROWTH = 4.0
"""Of λ after a step that made its scan worse."""
TRUST = (1 / 4, 2.0)
"""Of λ after a step that made it better, as far as the quadratic model held."""


@dataclass(frozen=True)
class Seen:
    """What one sweep saw: the context's coordinates, the gradient of each scan's loss by shifts, and the loss."""

    coordinates: Float[Tensor, "point coord"]
    by_shifts: Float[Tensor, "batch layer hidden"]
    losses: Float[Tensor, " batch"]
    whole: bool
    """The context was the whole grid, so losses of two steps may be compared."""


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


class GaussNewton:
    """φ ← φ − (H + λ h̄ I)⁻¹ ∇L: H the scan's own Gauss-Newton matrix, h̄ its mean diagonal (Levenberg, Marquardt).

    H is taken anew at every step, on ``sample`` of the context; each scan has a λ of its own, which begins at
    ``damping``. A step that made its scan worse is taken back, and λ grows fourfold; after one that made it better, λ
    follows how much of the promised gain came true (Nielsen 1999): where the quadratic model holds it shrinks, where it
    does not it grows. ``first`` is H at the first step where it is the same for all scans.
    """

    def __init__(
        self, network: Folded, damping: float, sample: list[Tensor], chunks: Chunks, first: Tensor | None = None
    ) -> None:
        self._network, self._damping, self._chunks, self._first = network, damping, chunks, first
        self._sample = iter(sample)
        self._before: tuple[Tensor, Tensor, Tensor] | None = None
        self._promised: Tensor | None = None
        self._relative: Tensor | None = None

    def next(self, latents: Float[Tensor, "batch latent"], seen: Seen) -> Float[Tensor, "batch latent"]:
        """The latents after the next step."""
        if self._relative is None:
            self._relative = torch.full_like(latents[:, 0], self._damping)
        gradient, losses = self._network.pull_back(seen.by_shifts), seen.losses
        if self._before is not None and seen.whole:
            latents, gradient, losses = self._take_back(latents, gradient, losses)
        self._before = (latents, gradient, losses) if seen.whole else None
        matrix, self._first = self._first, None
        if matrix is None:
            matrix = curvature(self._network, self._points(seen.coordinates), latents, self._chunks)
            step = damped_solution(matrix, self._relative, gradient)
        else:
            matrix = matrix.clone()
            step = damped_solution(matrix, self._relative[:1], gradient)
        # What the quadratic model gains along −step: ½ stepᵀ(∇L + damping · step), where damping is what was added.
        added = matrix.diagonal(dim1=1, dim2=2).mean(1) * (self._relative / (1 + self._relative))
        self._promised = 0.5 * (step * (gradient + added[:, None] * step)).sum(1)
        return latents - step

    def _take_back(self, latents: Tensor, gradient: Tensor, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self._before is not None
        assert self._relative is not None
        assert self._promised is not None
        old = self._before
        better = losses <= old[2]  # False for what is not a number
        kept = (old[2] - losses) / self._promised
        factor = torch.where(better, (1 - (2 * kept - 1) ** 3).clamp(*TRUST), GROWTH)
        self._relative = (self._relative * factor).clamp(SMALLEST_DAMPING, LARGEST_DAMPING)
        return (
            torch.where(better[:, None], latents, old[0]),
            torch.where(better[:, None], gradient, old[1]),
            torch.where(better, losses, old[2]),
        )

    def _points(self, coordinates: Tensor) -> Tensor:
        chosen = next(self._sample)
        return coordinates[chosen.to(coordinates.device)] if len(chosen) < len(coordinates) else coordinates

    def settled(
        self, latents: Float[Tensor, "batch latent"], losses: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent"]:
        """The latents at the end, likewise: a last step that made its scan worse is taken back as well."""
        if self._before is None:
            return latents
        return torch.where((losses <= self._before[2])[:, None], latents, self._before[0])


Steps = Plain | GaussNewton


def damped_solution(
    matrix: Float[Tensor, "#batch latent latent"],
    damping: Float[Tensor, " #batch"],
    right: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch latent"]:
    """(matrix + damping · mean diagonal · I)⁻¹ right, scan by scan. Changes ``matrix``."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal += (damping * diagonal.mean(1))[:, None]
    factor, _ = torch.linalg.cholesky_ex(matrix)  # a scan that is not a number raises nothing, and harms no other
    if len(factor) == 1 < len(right):
        return torch.cholesky_solve(right.mT.contiguous(), factor[0]).mT
    return torch.cholesky_solve(right[..., None], factor)[..., 0]
