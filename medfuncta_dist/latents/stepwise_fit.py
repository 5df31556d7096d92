"""Fitting a SIREN: the latent of every scan of a batch, step by step, the shared network frozen. Runs on bare torch.

What depends only on the network is computed once (``StepwiseFitter``); a batch is then fitted in blocks of scans that
stay in cache from the first step to the last. On a GPU all of a block's steps may be one CUDA graph. docs/method.md, 7,
derives the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.curvature import Sample, curved_gradient, jacobian_sweep, rows, spread_points
from medfuncta_dist.latents.curvature_forms import AtOrigin, Curvature, Primal, form_of
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.fit_steps import METHODS, Seen, Steps
from medfuncta_dist.latents.latent_types import Stored, store
from medfuncta_dist.meta.context import context_indices
from medfuncta_dist.meta.inner_rates import inner_rates
from medfuncta_dist.meta.losses import psnr_of_mse
from medfuncta_dist.meta.machine.captured import Replayed
from medfuncta_dist.meta.machine.gpu_memory import is_out_of_memory, release_memory, too_little
from medfuncta_dist.meta.machine.memory import keep_freed_memory
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.point_weights import times
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold
from medfuncta_dist.meta.sweeps.inner_gradient import losses, shift_gradient

CONTEXTS, RESCALING = range(2)
"""The purposes that random points are drawn for: each has its own random numbers."""


@dataclass(frozen=True)
class _Origin:
    """The field at φ = 0: its values and Jacobian by shifts, which are the same for every scan."""

    values: Float[Tensor, "point channel"]
    jacobian: Float[Tensor, "value shift"]


@dataclass(frozen=True)
class _FittedBlock:
    """What to store of each scan, its error as stored (values clamped, as PSNR wants), the steps that it took, and how
    many of these had no solution.

    Where points have weights, the errors are the weighted one and then that of all points alike.
    """

    stored: Stored
    errors: Float[Tensor, "kind batch"]
    steps: Int[Tensor, " batch"]
    unsolved: Int[Tensor, " batch"]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> _FittedBlock:
        """From ``StepwiseFitter.work``."""
        errors, steps, unsolved, numbers, *scales = tensors
        return cls(Stored(numbers, scales[0] if scales else None), errors, steps, unsolved)


class StepwiseFitter:
    """A SIREN on a grid, ready to fit batch after batch. Detached from what it is made of.

    RunFileError for a method that is not a SIREN's.
    """

    units: Float[Tensor, " latent"] | None = None

    def __init__(
        self, spec: SirenSpec, params: Params, coordinates: Float[Tensor, "point coord"], settings: FitSettings
    ) -> None:
        keep_freed_memory()
        if settings.method not in METHODS:
            what = f"the latents of a SIREN are not found by the method '{settings.method}'"
            raise RunFileError(what, where="fit.method", do=f"use one of {', '.join(METHODS)}")
        self._network, self._coordinates = fold(spec, params, settings.arithmetic), coordinates
        # As a tensor on the device: a number would be copied there anew at each step.
        self._settings = replace(settings, rate=inner_rates(spec, settings.rate, self._network.maps))
        self._chunks = settings.chunks or Chunks.sized(spec.hidden)
        # A block goes on until its last scan is good enough: on a CPU, blocks of one scan cost little and stop at once.
        # A GPU would have to wait for the answer at each step: there, blocks take all their steps.
        self._asks = settings.target_psnr is not None and coordinates.device.type == "cpu"
        self._block = 1 if self._asks else settings.block or self._chunks.scans
        self._everything = torch.arange(len(coordinates), device=coordinates.device)
        self._contexts, self._rescaling = self._plan(), self._rescaling_contexts()
        self._samples = [self._sample(len(context), step) for step, context in enumerate(self._contexts)]
        self._replayed = Replayed(self.work)
        self.halved = False
        """Whether memory ran out: blocks and chunks are then half as large as they were to be."""

    @torch.no_grad()
    def fit(
        self, targets: Float[Tensor, "batch point channel"], weights: Float[Tensor, "batch point"] | None = None
    ) -> FitResult:
        """Fit every scan from φ = 0, as ``Fitter`` says.

        A step on points of which a scan has no weight is none for that scan.
        """
        while True:
            try:
                return self._fit(targets, weights)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error)
            self._halve(said)  # not within the handler: the error's frames hold the tensors of the failed block

    def _fit(self, targets: Tensor, weights: Tensor | None) -> FitResult:
        given = [targets] if weights is None else [targets, weights]
        parts = zip(*(torch.split(one, self._block) for one in given), strict=True)
        blocks = [self._fit_block(*part) for part in parts]
        numbers = torch.cat([block.stored.numbers for block in blocks])
        scales = [block.stored.scales for block in blocks if block.stored.scales is not None]
        stored = Stored(numbers, torch.cat(scales) if scales else None)
        latents, (quality, *rest) = stored.restored(), psnr_of_mse(torch.cat([block.errors for block in blocks], 1))
        finite = torch.isfinite(latents).all(dim=1) & torch.isfinite(quality)
        steps, unsolved = (torch.cat(column) for column in zip(*((b.steps, b.unsolved) for b in blocks), strict=True))
        return FitResult(latents, quality, finite, steps, stored, unsolved, *rest)

    def _halve(self, said: str) -> None:
        """Go on with half the scans and half the chunks; MedfunctaError where that has been done before."""
        if self.halved:
            raise too_little(self._chunks, said)
        self._block, self._chunks, self.halved = max(1, self._block // 2), self._chunks.halved(), True
        self._replayed = Replayed(self.work)
        release_memory()

    def _fit_block(self, *given: Tensor) -> _FittedBlock:
        if not self._network.arithmetic.captured:
            return _FittedBlock.of(self.work(*given))
        # What a replay fills is overwritten by the next one.
        return _FittedBlock.of([one.clone() for one in self._replayed(*given)])

    def work(
        self, targets: Float[Tensor, "batch point channel"], weights: Float[Tensor, "batch point"] | None = None
    ) -> list[Tensor]:
        """All steps of a block, as a function of tensors: the fields of a ``_FittedBlock``."""
        objective = self._at_origin(targets).weighted(weights)
        moving = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
        taken, unsolved = torch.zeros(2, len(targets), dtype=torch.int32, device=targets.device)
        steps = self._steps()
        for step in range(self._settings.steps):
            seen = self._see(step, objective)
            if self._settings.target_psnr is not None and seen.whole:
                moving &= ~(psnr_of_mse(seen.losses) >= self._settings.target_psnr)
                if self._asks and not moving.any():
                    break
            stepped = steps.next(objective.latents, seen)
            here = moving if seen.counted is None else moving & seen.counted
            objective = objective.at(torch.where(here[:, None], stepped.latents, objective.latents))
            taken += here
            unsolved += here & ~stepped.solved
        stored, errors = self._judged(steps, objective, targets)
        return [errors, taken, unsolved, stored.numbers, *([] if stored.scales is None else [stored.scales])]

    def _at_origin(self, targets: Tensor) -> Objective:
        """The scans at φ = 0."""
        latents = targets.new_zeros(len(targets), self._network.spec.latent)
        return Objective(self._network, self._coordinates, targets, latents, self._chunks)

    def _judged(self, steps: Steps, objective: Objective, targets: Tensor) -> tuple[Stored, Tensor]:
        """What to store, and its errors: of the stored numbers, values clamped. The method's own choice sees neither.

        ``targets``: as they were given, with what does not count.
        """
        stored = store(steps.settled(objective), self._settings.storage_type)
        final = objective.at(stored.restored().to(objective.targets.dtype))
        told = [final] if final.weights is None else [final, replace(final, targets=targets, weights=None)]
        return stored, torch.stack([losses(one, clamp=True) for one in told])

    def _plan(self) -> list[Int[Tensor, " context"]]:
        """The context of each step. Equal contexts are one object: their losses may be compared."""
        settings, sparse = self._settings, self._settings.steps - self._settings.full_steps
        even = spread_points(len(self._coordinates), settings.selection_ratio, 0).to(self._coordinates.device)

        def context(step: int) -> Tensor:
            if step >= sparse or (step == 0 and settings.closed_form) or len(even) == len(self._everything):
                return self._everything
            return even if self._curved else self._draw(CONTEXTS, step, settings.selection_ratio)

        return [context(step) for step in range(settings.steps)]

    def _sample(self, points: int, step: int) -> Sample:
        """Of a step's points, those that its curvature is taken from."""
        chosen = spread_points(points, self._settings.curvature_ratio, step)
        return Sample.of(chosen, self._coordinates.device)

    def _rescaling_contexts(self) -> list[Int[Tensor, " context"]]:
        """The second context of each step, for the published rescaling."""
        ratio, steps = self._settings.rescale, range(self._settings.steps)
        return [] if ratio is None else [self._draw(RESCALING, step, ratio) for step in steps]

    @property
    def _curved(self) -> bool:
        return METHODS[self._settings.method].curved

    def _steps(self) -> Steps:
        return METHODS[self._settings.method].start(self._network, self._settings)

    def _see(self, step: int, objective: Objective) -> Seen:
        if step == 0 and self._settings.closed_form:
            return self._seen_at_origin(objective)
        context = self._contexts[step]
        here = objective.on(context)
        by_shifts, errors, curvature = self._sweep(step, here)
        if self._rescaling:
            sub, _ = shift_gradient(objective.on(self._rescaling[step]))
            sizes = [torch.linalg.vector_norm(self._network.pull_back(g), dim=1) for g in (sub, by_shifts)]
            by_shifts = by_shifts * (sizes[0] / sizes[1].clamp(min=torch.finfo(sizes[1].dtype).tiny))[:, None, None]
        return Seen(context, by_shifts, errors, context is self._everything, curvature, here.counted)

    def _sweep(self, step: int, objective: Objective) -> tuple[Tensor, Tensor, Curvature | None]:
        """Gradient by shifts, losses and, where the method wants it, curvature, on the step's context."""
        if not self._curved:
            return *shift_gradient(objective), None
        return curved_gradient(objective, self._samples[step])

    def _seen_at_origin(self, objective: Objective) -> Seen:
        """At φ = 0 the gradient is linear in the target: y ↦ 2/N J₀ᵀW(f₀ − y)."""
        error = self._origin.values - objective.targets
        residue = times(error, objective.weights).flatten(1)
        by_shifts = 2 / residue.shape[1] * (residue @ self._origin.jacobian)
        by_layer = by_shifts.view(len(residue), -1, self._network.spec.hidden)
        errors = times(error.square(), objective.weights).flatten(1).mean(1)
        curvature = self._curvature_at_origin(objective) if self._curved else None
        return Seen(self._everything, by_layer, errors, True, curvature, objective.counted)

    @cached_property
    def _origin(self) -> _Origin:
        blank = self._blank()
        shifts = blank.shifts
        pieces = [jacobian_sweep(self._network, block.coordinates, shifts) for block in blank.blocks()]
        by_channel = torch.cat([rows(jacobian).view(len(jacobian), -1, shifts.numel()) for jacobian, _ in pieces], 1)
        return _Origin(torch.cat([values[0] for _, values in pieces]), by_channel.transpose(0, 1).flatten(0, 1))

    def _curvature_at_origin(self, objective: Objective) -> AtOrigin:
        """One for all scans; points with weights give each scan its own."""
        return self._first_curvature if objective.weights is None else self._made_at_origin(objective)

    @cached_property
    def _first_curvature(self) -> AtOrigin:
        return self._made_at_origin(self._blank())

    def _made_at_origin(self, origin: Objective) -> AtOrigin:
        everything, sample = self._first_samples
        _, _, exact = curved_gradient(origin, everything, Primal)
        if form_of(len(sample) * self._network.spec.channels, self._network.spec.latent) is Primal:
            return AtOrigin(exact, exact)
        return AtOrigin(exact, curved_gradient(origin, sample)[2])

    @cached_property
    def _first_samples(self) -> tuple[Sample, Sample]:
        """All points, and of these what a second step takes its curvature from."""
        points = len(self._coordinates)
        return Sample.of(torch.arange(points), self._coordinates.device), self._sample(points, 1)

    def _blank(self) -> Objective:
        """One scan at φ = 0, to ask for what does not depend on targets: all zeros, as good as any."""
        return self._at_origin(self._network.maps.new_zeros(1, len(self._coordinates), self._network.spec.channels))

    def _draw(self, purpose: int, step: int, ratio: float) -> Tensor:
        seed, points = self._settings.seed, len(self._coordinates)
        chosen = context_indices(points, ratio, seed=seed, outer_step=purpose, inner_step=step)
        return chosen.to(self._coordinates.device)
