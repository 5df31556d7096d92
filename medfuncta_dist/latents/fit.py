"""Fitting: the latent of every scan of a batch, the shared network frozen, whatever its kind. Runs on bare torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.field_kinds import FieldSpec
from medfuncta_dist.fields.params import Params
from medfuncta_dist.latents.exact_fit import ExactFitter
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter


@runtime_checkable
class Fitter(Protocol):
    """A network on a grid, ready to fit batch after batch."""

    units: Float[Tensor, " latent"] | None
    """What int8 numbers count in, times each scan's scale; None for plain multiples of the scale."""

    halved: bool
    """Whether memory ran out, and it goes on with half the chunks: a SIREN's; a basis field's product has none."""

    def fit(
        self, targets: Float[Tensor, "batch point channel"], weights: Float[Tensor, "batch point"] | None = None
    ) -> FitResult:
        """The latent of every scan. Rows are independent: a scan's bits depend on its own values, its place in the
        batch and the batch's size, not on its neighbours, so a short batch may be padded with anything.

        A scan that is not finite, or whose fit diverges, has ``finite`` False; its neighbours are not affected.

        ``weights``: how much each point of each scan counts, not negative; None for all alike, which takes no time.
        Targets at points of weight 0 may be anything. A scan without any weight has the latent 0; one with a weight
        that is negative or not finite has ``finite`` False.
        """
        ...


def new_fitter(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    settings: FitSettings,
    extras: Params | None = None,
    learned_rates: bool = True,
) -> Fitter:
    """A network ready to fit on a grid. Detached from what it is made of.

    ``extras``: what the network has beside θ; with ``learned_rates`` its own step sizes replace the settings' rate.
    """
    extras = extras or {}
    if isinstance(spec, BasisSpec):
        return ExactFitter(spec, params, coordinates, settings, extras.get("latent.variances"))
    if learned_rates and "inner.rates" in extras:
        settings = replace(settings, rate=extras["inner.rates"])
    return StepwiseFitter(spec, params, coordinates, settings)


def fit_batch(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    targets: Float[Tensor, "batch point channel"],
    settings: FitSettings,
    weights: Float[Tensor, "batch point"] | None = None,
) -> FitResult:
    """``Fitter.fit`` for a single batch."""
    return new_fitter(spec, params, coordinates, settings).fit(targets, weights)
