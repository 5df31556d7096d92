"""The basis field as a trainer sees it: an outer step is one exact solve, and its exact gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.closed_form.basis_gradient import (
    BasisGradient,
    LinearFit,
    basis_gradient,
    filled,
    solved_losses,
)
from medfuncta_dist.meta.closed_form.feature_grid import FeatureGrid
from medfuncta_dist.meta.closed_form.normal_equations import Factor
from medfuncta_dist.meta.closed_form.principal_latents import (
    Orthonormal,
    Principal,
    ScanMoments,
    add_scans,
    mean_gram,
    principal,
    trained_with,
)
from medfuncta_dist.meta.learner import Learner, Ranks, Trained
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.memory import keep_freed_memory
from medfuncta_dist.meta.point_weights import counted, relative

SCANS_PER_FEATURE, FEWEST_SCANS = 8, 4096
"""Training scans that the latent's coordinates are computed from, as far as there are so many: with fewer than F,
directions would be left out; 1024 chest X-rays instead of 3882 cost 0.3 dB at F = 256."""
SCANS_AT_ONCE, VALUES_AT_ONCE = 256, 2**26
"""Of these, per pass over the points, which computes the features again: as many scans as have 256 MB of values."""


class BasisLearner(Learner):
    """A basis field without M. Its latents are solved for on one context set; ``ridge`` is λ.

    Several ranks divide the points, not the scans, of a global batch: each computes its points' part of all sums. What
    costs most, the trunk and G, is the same for all scans. Gradients are computed with the losses and handed over when
    asked: whoever wraps the module sees an ordinary loss.
    """

    # A mean squared error of 1e-4 has gradients of 1e-8 a number: Adam's usual epsilon would decide its steps.
    ADAM_EPS: ClassVar[float] = 1e-15

    spec: BasisSpec

    def __init__(
        self,
        spec: BasisSpec,
        params: Params,
        coordinates: Float[Tensor, "point coord"],
        latent: int,
        ridge: float,
        block_points: int,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        keep_freed_memory()
        super().__init__(spec, {name: params[name].detach().clone() for name in spec.shapes()}, coordinates)
        self.latent, self.ridge, self.block_points = latent, ridge, block_points
        self._arithmetic = arithmetic
        self._factor: Factor | None = None

    def forward(
        self,
        targets: Float[Tensor, "batch point channel"],
        latents: Float[Tensor, "batch latent"],
        contexts: Sequence[Int[Tensor, " context"]],
        weights: Float[Tensor, "batch point"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Each scan's loss over all coordinates, of the latent that fits the first context set best.

        ``latents`` only tie the loss to autograd's graph: the solve starts nowhere. Either all ranks give ``weights``,
        or none. MedfunctaError where a weight is negative or not finite.
        """
        params = self.params()
        if weights is not None:
            targets, weights = counted(targets, weights), relative(weights.to(targets.dtype))
        everyone, mine = _of_all_ranks(targets, self.ranks)
        fit = self._fit(params, everyone, contexts[0] if contexts else None)
        if weights is not None:
            fit = replace(fit, weights=_checked(_of_all_ranks(weights, self.ranks)[0]))
        if not torch.is_grad_enabled():
            return solved_losses(fit, self.ridge)[mine]
        losses: Tensor = _Solved.apply(self, fit, mine, latents, *params.values())  # type: ignore[no-untyped-call]
        return losses

    def take(self, found: BasisGradient) -> None:
        """Remember what is worth logging of a step."""
        self._factor = found.factor

    def diagnostics(self) -> dict[str, float]:
        """The condition number and the ridge of the last step's solve."""
        factor = self._factor
        return {} if factor is None else {"condition": factor.condition(), "ridge": factor.ridge}

    @property
    def scans_to_finish(self) -> int:
        """A few for each feature."""
        return max(FEWEST_SCANS, SCANS_PER_FEATURE * self.spec.features)

    def trained(self, params: Params, scans: Iterable[Float[Tensor, "batch point channel"]]) -> Trained:
        """The field with the P best numbers as latents, in their order of variance over ``scans``."""
        device = self.coordinates.device
        params = {name: tensor.detach().to(device) for name, tensor in params.items()}
        moments = self._moments(params, scans)
        gram = mean_gram(self._grid(params, self.ranks))
        # One decomposes: several on one machine would need its memory several times over, and wait no less.
        own = self._principal(gram, moments) if self.ranks.rank == 0 else None
        found = (own or Principal.zeros(self.spec.features, self.latent, device)).over(self.ranks)
        return trained_with(self.spec, params, found, int(moments.count))

    def filled(
        self,
        params: Params,
        targets: Float[Tensor, "batch point channel"],
        weights: Float[Tensor, "batch point"],
    ) -> Float[Tensor, "batch point channel"]:
        """Scans for ``trained`` where points have weights: what does not count is what the field gives there.

        MedfunctaError where a weight is negative or not finite. Leave out scans that have no weight: they would come
        back as the mean.
        """
        targets, weights = counted(targets, weights), _checked(relative(weights.to(targets.dtype)))
        fit = self._fit(params, targets, None)
        return filled(replace(fit, grid=self._grid(params, Ranks()), weights=weights), self.ridge)

    def _moments(self, params: Params, scans: Iterable[Tensor]) -> ScanMoments:
        grid = self._grid(params, Ranks())  # here ranks share the scans, not the points
        device = self.coordinates.device
        moments = ScanMoments.none(self.spec.features, device)
        for targets in _grouped(scans, min(SCANS_AT_ONCE, VALUES_AT_ONCE // grid.values)):
            self.ranks.alive()
            add_scans(moments, grid, targets.to(device))
        moments = moments.over(self.ranks)
        if not int(moments.count):
            raise MedfunctaError(
                "a basis field has no latent without training scans",
                do="check that the split 'train' has scans",
            )
        return moments

    def _principal(self, gram: Tensor, moments: ScanMoments) -> Principal:
        self.ranks.alive()
        functions = Orthonormal.of(gram)
        self.ranks.alive()
        return principal(functions, moments, self.latent)

    def _fit(self, params: Params, targets: Tensor, context: Tensor | None) -> LinearFit:
        device = targets.device
        settled = Arithmetic.best(device) if self._arithmetic is None else self._arithmetic.require(device)
        return LinearFit(self._grid(params, self.ranks), targets, settled, context)

    def _grid(self, params: Params, ranks: Ranks) -> FeatureGrid:
        return FeatureGrid(self.spec, params, self.coordinates, self.block_points, ranks)


class _Solved(torch.autograd.Function):
    """One node of autograd's graph, as the SIREN's recursive engine is (``outer_loop.py``)."""

    @staticmethod
    def forward(
        ctx: Any, learner: BasisLearner, fit: LinearFit, mine: slice, latents: Tensor, *theta: Tensor
    ) -> Tensor:
        found = basis_gradient(fit, learner.ridge)
        learner.take(found)
        ctx.by_theta, ctx.latents = list(found.params.values()), latents
        return found.losses[mine]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        # The gradients are already summed over scans: weights that differ could no longer be applied.
        weight = weights[0]
        if not bool((weights == weight).all()):
            raise RuntimeError("the basis field needs a loss that weights all scans equally")
        return None, None, None, torch.zeros_like(ctx.latents), *(weight * gradient for gradient in ctx.by_theta)


def _checked(weights: Float[Tensor, "scan point"]) -> Float[Tensor, "scan point"]:
    """Relative weights, none of which is NaN; on every rank, so that all of them stop."""
    if bool(weights.isnan().any()):
        raise MedfunctaError(
            "a scan has a weight that is negative or not finite",
            do="give weights of 0 and more; a point of weight 0 does not count",
        )
    return weights


def _of_all_ranks(targets: Float[Tensor, "batch ..."], ranks: Ranks) -> tuple[Float[Tensor, "scan ..."], slice]:
    """The scans of all ranks, in the order of ranks, and which of them are this one's."""
    if ranks.size == 1:
        return targets, slice(0, len(targets))
    counts = torch.zeros(ranks.size, dtype=torch.int64, device=targets.device)
    counts[ranks.rank] = len(targets)
    counts = ranks.sum(counts)
    first = int(counts[: ranks.rank].sum())
    mine = slice(first, first + len(targets))
    everyone = targets.new_zeros(int(counts.sum()), *targets.shape[1:])
    everyone[mine] = targets
    return ranks.sum(everyone), mine


def _grouped(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same scans in batches of at least ``size``, but the last."""
    waiting: list[Tensor] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= size:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)
