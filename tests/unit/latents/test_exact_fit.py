"""The exact fit: the gradient of its objective vanishes, weights and contexts decide what counts, rows are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.basis import BasisSpec, field, init_params, mean_and_basis
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.latents.curvature import spread_points
from medfuncta_dist.latents.exact_fit import ExactFitter
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.latent_types import StorageType
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.closed_form.normal_equations import Factor
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.meta.losses import psnr

GRADIENT = 1e-5
"""Of the objective at the latent, relative to that at 0, in float32."""


def bumps(shape: Sequence[int], scans: int, channels: int = 1, seed: int = 0) -> Tensor:
    """(scan, point, channel) in [0, 1]: a dozen soft spots each, at random places."""
    points, generator = grid(shape), torch.Generator().manual_seed(seed)
    total = torch.zeros(scans, len(points), channels)
    for _ in range(12):
        places = torch.rand(scans, 1, len(shape), generator=generator) * 2 - 1
        widths = torch.rand(scans, 1, 1, generator=generator) * 40 + 4
        heights = torch.rand(scans, 1, channels, generator=generator)
        total += heights * torch.exp(-widths * (points - places).square().sum(-1, keepdim=True))
    return total.clamp(0, 1)


@dataclass(frozen=True)
class Case:
    """A field ready to fit, on a grid, with scans that it has not seen."""

    trained: Trained
    coordinates: Tensor
    targets: Tensor

    def fitter(self, **settings: Any) -> ExactFitter:
        spec = self.trained.spec
        assert isinstance(spec, BasisSpec)
        variances = self.trained.extras.get("latent.variances")
        return ExactFitter(spec, self.trained.params, self.coordinates, FitSettings(**settings), variances)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Mean and basis of all values as fitting sees them, then in float64."""
        assert isinstance(self.trained.spec, BasisSpec)
        mean, basis = mean_and_basis(self.trained.spec, self.trained.params, self.coordinates)
        return mean.flatten().double(), basis.flatten(0, 1).double()


def case(shape: Sequence[int], latent: int, features: int, *, channels: int = 1, hidden: int = 64) -> Case:
    """A random trunk in the latent's own coordinates over some scans; or the trunk itself, where F = P."""
    spec = BasisSpec(len(shape), channels, 3, hidden, features, features, (20.0, 20.0), mapped=False)
    params = init_params(spec, torch.Generator().manual_seed(0))
    if features == latent:
        trained = Trained(spec, params)
    else:
        learner = BasisLearner(spec, params, grid(shape), latent, 1e-4, 16_000)
        trained = learner.trained(learner.params(), iter([bumps(shape, 64, channels)]))
    return Case(trained, grid(shape), bumps(shape, 5, channels, seed=1))


@pytest.fixture(scope="module")
def small() -> Case:
    return case([16, 15], 24, 48)


def relative_gradients(
    one: Case, latents: Tensor, ridge: float, weights: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Of Σ w‖y − μ − Bφ‖² + λ tr(G)/P ‖φ‖² at each scan's latent, relative to that at 0. ``weights``: (scan, value)."""
    mean, rows = one.rows()
    residues = (one.targets if targets is None else targets).double().flatten(1) - mean
    found = []
    for latent, residue, weight in zip(latents.double(), residues, weights.double(), strict=True):
        gram = rows.T @ (rows * weight[:, None])
        right = rows.T @ (weight * residue)
        gradient = gram @ latent + ridge * gram.trace() / len(gram) * latent - right
        found.append(gradient.norm() / right.norm())
    return torch.stack(found)


def inside(one: Case, ratio: float) -> Tensor:
    """1 for each value in the context, for every scan."""
    points, channels = len(one.coordinates), one.targets.shape[2]
    counted = torch.zeros(points)
    counted[spread_points(points, ratio, 0)] = 1
    return counted.repeat_interleave(channels).expand(len(one.targets), -1)


SIZES = [(128, 128), (128, 256), (512, 1024)]


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize(("latent", "features"), SIZES)
def test_the_gradient_of_the_objective_vanishes_in_float32(latent: int, features: int, ratio: float) -> None:
    one = case([48, 48], latent, features, hidden=128)
    fitted = one.fitter(selection_ratio=ratio).fit(one.targets)
    assert fitted.finite.all()
    assert (relative_gradients(one, fitted.latents, 1e-6, inside(one, ratio)) <= GRADIENT).all()


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize(("shape", "channels"), [((90,), 1), ((10, 12), 3), ((6, 5, 6), 2)])
def test_so_it_does_in_every_dimension_and_for_any_ridge(shape: tuple[int, ...], channels: int, ridge: float) -> None:
    one = case(shape, 20, 40, channels=channels)
    for ratio in (1.0, 0.6):
        fitted = one.fitter(selection_ratio=ratio, ridge=ridge).fit(one.targets)
        assert (relative_gradients(one, fitted.latents, ridge, inside(one, ratio)) <= GRADIENT).all()


def test_fitting_is_better_than_the_mean_and_a_larger_latent_better_still(small: Case) -> None:
    few, many = (small.fitter(keep=keep).fit(small.targets) for keep in (4, 24))
    assert isinstance(small.trained.spec, BasisSpec)
    mean = field(small.trained.spec, small.trained.params, small.coordinates, torch.zeros(5, 24))
    assert (few.psnr > psnr(mean, small.targets)).all()
    assert (many.psnr > few.psnr + 0.5).all()
    assert (few.latents.shape, many.latents.shape) == ((5, 4), (5, 24))
    torch.testing.assert_close(few.latents, many.latents[:, :4], rtol=1e-3, atol=1e-4)  # orthonormal: no others' matter


@pytest.mark.parametrize("keep", [None, 5])
@pytest.mark.parametrize("storage_type", ["float32", "float16", "int8"])
def test_psnr_is_that_of_decoding_what_is_stored(small: Case, storage_type: StorageType, keep: int | None) -> None:
    fitted = small.fitter(storage_type=storage_type, keep=keep).fit(small.targets)
    assert fitted.stored.numbers.dtype == getattr(torch, storage_type)
    assert torch.equal(fitted.stored.restored(), fitted.latents)
    assert isinstance(small.trained.spec, BasisSpec)
    values = field(small.trained.spec, small.trained.params, small.coordinates, fitted.latents)
    torch.testing.assert_close(fitted.psnr, psnr(values, small.targets), rtol=1e-5, atol=1e-3)
    assert fitted.steps.tolist() == [1] * 5


def test_int8_counts_in_units_and_costs_little(small: Case) -> None:
    exact, coarse = (small.fitter(storage_type=kind).fit(small.targets) for kind in ("float32", "int8"))
    assert coarse.stored.units is not None
    error = (coarse.latents - exact.latents).abs()
    assert coarse.stored.scales is not None
    assert (error <= 0.51 * coarse.stored.scales[:, None] * coarse.stored.units).all()
    assert (exact.psnr - coarse.psnr <= 0.1).all()


@pytest.fixture(scope="module")
def weights(small: Case) -> Tensor:
    """Another mask for each scan, and other weights within it."""
    generator = torch.Generator().manual_seed(2)
    counted = torch.rand(5, len(small.coordinates), generator=generator) > 0.3
    return counted * (0.2 + torch.rand(5, len(small.coordinates), generator=generator))


def test_weights_of_each_scan_are_its_own(small: Case, weights: Tensor) -> None:
    fitted = small.fitter().fit(small.targets, weights)
    assert (relative_gradients(small, fitted.latents, 1e-6, weights) <= GRADIENT).all()
    plain = small.fitter().fit(small.targets)
    assert (fitted.latents - plain.latents).norm(dim=1).min() > 1e-3


def test_points_without_weight_are_ignored(small: Case, weights: Tensor) -> None:
    spoiled = torch.where((weights == 0)[..., None], 1 - small.targets, small.targets)
    assert not torch.equal(spoiled, small.targets)
    fitted, same = (small.fitter().fit(targets, weights) for targets in (small.targets, spoiled))
    assert torch.equal(same.latents, fitted.latents)
    assert torch.equal(same.psnr, fitted.psnr)


def test_psnr_with_weights_is_of_the_weighted_error(small: Case, weights: Tensor) -> None:
    fitted = small.fitter().fit(small.targets, weights)
    assert isinstance(small.trained.spec, BasisSpec)
    values = field(small.trained.spec, small.trained.params, small.coordinates, fitted.latents).clamp(0, 1)
    squares = (values - small.targets).square()[..., 0]
    expected = -10 * torch.log10((squares * weights).sum(1) / weights.sum(1))
    torch.testing.assert_close(fitted.psnr, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_equal_weights_are_none(small: Case, ratio: float) -> None:
    fitter = small.fitter(selection_ratio=ratio)
    plain = fitter.fit(small.targets)
    for value in (1.0, 7.0):
        fitted = fitter.fit(small.targets, torch.full((5, len(small.coordinates)), value))
        torch.testing.assert_close(fitted.latents, plain.latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fitted.psnr, plain.psnr, rtol=1e-5, atol=1e-3)


def test_weights_of_points_stand_for_all_channels_and_go_with_a_sparse_context() -> None:
    one = case([10, 12], 16, 32, channels=3)
    weights = torch.rand(5, 120, generator=torch.Generator().manual_seed(3))
    fitted = one.fitter(selection_ratio=0.6).fit(one.targets, weights)
    by_value = weights.repeat_interleave(3, 1) * inside(one, 0.6)
    assert (relative_gradients(one, fitted.latents, 1e-6, by_value) <= GRADIENT).all()


def test_points_outside_the_context_are_not_fitted_but_scored(small: Case) -> None:
    fitter = small.fitter(selection_ratio=0.5)
    outside = torch.ones(len(small.coordinates), dtype=torch.bool)
    outside[spread_points(len(small.coordinates), 0.5, 0)] = False
    other = small.targets.clone()
    other[:, outside] = 1 - other[:, outside]
    fitted, changed = fitter.fit(small.targets), fitter.fit(other)
    assert torch.equal(changed.latents, fitted.latents)
    assert (changed.psnr != fitted.psnr).all()


@pytest.mark.parametrize("padding", [0.0, 1e30, math.nan, math.inf])
@pytest.mark.parametrize("settings", [{}, {"selection_ratio": 0.5}, {"storage_type": "int8"}, {"keep": 5}], ids=str)
def test_padding_and_broken_scans_leave_the_other_rows_bits_alone(
    small: Case, settings: dict[str, Any], padding: float
) -> None:
    fitter = small.fitter(**settings)
    clean = fitter.fit(small.targets)
    spoiled = small.targets.clone()
    spoiled[[1, 4]] = padding
    fitted = fitter.fit(spoiled)
    for name in ("latents", "psnr", "steps"):
        assert torch.equal(getattr(fitted, name)[[0, 2, 3]], getattr(clean, name)[[0, 2, 3]])
    assert fitted.finite[[0, 2, 3]].all()
    assert not fitted.finite[[1, 4]].any() or math.isfinite(padding)


@pytest.mark.parametrize("padding", [0.0, math.nan])
def test_so_it_is_with_weights(small: Case, weights: Tensor, padding: float) -> None:
    clean = small.fitter().fit(small.targets, weights)
    spoiled = small.targets.clone()
    spoiled[[1, 4]] = padding
    fitted = small.fitter().fit(spoiled, weights)
    for name in ("latents", "psnr"):
        assert torch.equal(getattr(fitted, name)[[0, 2, 3]], getattr(clean, name)[[0, 2, 3]])


@pytest.mark.parametrize("value", [0.5, math.nan])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_scan_without_any_weight_has_the_latent_0_and_its_neighbours_have_theirs(
    small: Case, weights: Tensor, value: float, ratio: float
) -> None:
    fitter, empty, targets = small.fitter(selection_ratio=ratio), weights.clone(), small.targets.clone()
    empty[2], targets[2] = 0, value
    clean, fitted = fitter.fit(small.targets, weights), fitter.fit(targets, empty)
    others = [0, 1, 3, 4]
    assert fitted.finite.all()
    assert not fitted.latents[2].any()
    assert float(fitted.psnr[2]) == 100, "no value counts, so none is wrong"
    assert torch.equal(fitted.latents[others], clean.latents[others])


def test_a_scan_without_weight_in_the_context_has_the_latent_0(small: Case) -> None:
    outside = torch.ones(5, len(small.coordinates))
    outside[:, spread_points(len(small.coordinates), 0.5, 0)] = 0
    fitted = small.fitter(selection_ratio=0.5).fit(small.targets, outside)
    assert not fitted.latents.any()
    assert (fitted.psnr < 100).all(), "its other points are scored"


def test_the_size_of_weights_does_not_count_however_large(small: Case, weights: Tensor) -> None:
    plain = small.fitter().fit(small.targets, weights)
    for size in (2.0**-100, 2.0**100):
        scaled = small.fitter().fit(small.targets, size * weights)
        torch.testing.assert_close(scaled.latents, plain.latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scaled.psnr, plain.psnr)


def test_scans_with_equal_weights_share_a_factor(small: Case, weights: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    fitter, made = small.fitter(), []
    found = Factor.found
    monkeypatch.setattr(Factor, "found", lambda *given: made.append(1) or found(*given))
    shared = weights[[0, 1, 0, 0, 1]].clone()
    shared[3] = 1  # of a scan that counts everywhere, the factor is there
    together = fitter.fit(small.targets, shared)
    assert len(made) == 2
    for scan in range(5):
        others = shared.clone()
        others[[other for other in range(5) if other != scan]] = 0
        assert torch.equal(fitter.fit(small.targets, others).latents[scan], together.latents[scan])


def test_psnr_is_told_inside_the_mask_and_everywhere(small: Case, weights: Tensor) -> None:
    fitted, plain = small.fitter().fit(small.targets, weights), small.fitter().fit(small.targets)
    assert isinstance(small.trained.spec, BasisSpec)
    values = field(small.trained.spec, small.trained.params, small.coordinates, fitted.latents)
    assert fitted.psnr_everywhere is not None
    torch.testing.assert_close(fitted.psnr_everywhere, psnr(values, small.targets), rtol=1e-5, atol=1e-3)
    assert fitted.psnr_inside is fitted.psnr
    assert (plain.psnr_inside, plain.psnr_everywhere) == (None, None)


@pytest.mark.parametrize("weight", [-1.0, -1e30, -math.inf, math.nan, math.inf])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_scan_with_weights_that_are_none_has_no_latent_and_its_neighbours_have_theirs(
    small: Case, weights: Tensor, weight: float, ratio: float
) -> None:
    fitter, spoiled = small.fitter(selection_ratio=ratio), weights.clone()
    spoiled[2, :: 1 if weight == -1e30 else 3] = weight
    clean, fitted = (fitter.fit(small.targets, each) for each in (weights, spoiled))
    assert fitted.finite.tolist() == [True, True, False, True, True]
    for name in ("latents", "psnr"):
        assert torch.equal(getattr(fitted, name)[fitted.finite], getattr(clean, name)[fitted.finite])


def test_one_negative_weight_is_not_fitted_as_if_it_were_a_small_one(small: Case, weights: Tensor) -> None:
    for point in (0, len(small.coordinates) - 1):
        spoiled = weights.clone()
        spoiled[2, point] = -1e-6
        assert small.fitter().fit(small.targets, spoiled).finite.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("channels", "ratio"), [(1, 1.0), (3, 0.6)])
def test_a_value_that_is_not_finite_does_not_count_where_its_point_has_no_weight(
    channels: int, ratio: float, value: float
) -> None:
    one = case([10, 12], 16, 32, channels=channels)
    weights = torch.rand(5, 120, generator=torch.Generator().manual_seed(3))
    weights[:, ::4] = 0
    spoiled = one.targets.clone()
    spoiled[1, ::4] = value
    spoiled[3, 8, channels - 1] = value
    clean, fitted = (one.fitter(selection_ratio=ratio).fit(targets, weights) for targets in (one.targets, spoiled))
    assert fitted.finite.all()
    assert torch.equal(fitted.latents, clean.latents)
    assert torch.equal(fitted.psnr, clean.psnr)
    assert not spoiled.isfinite().all(), "the caller's values are left as they are"
    spoiled[4, 1] = value
    assert one.fitter(selection_ratio=ratio).fit(spoiled, weights).finite.tolist() == [True] * 4 + [False]


def test_a_scan_that_is_not_finite_anywhere_is_told(small: Case) -> None:
    spoiled = small.targets.clone()
    spoiled[2, 7] = math.nan
    assert small.fitter().fit(spoiled).finite.tolist() == [True, True, False, True, True]


def test_the_same_batch_gives_the_same_bits_by_another_fitter(small: Case) -> None:
    first, again = (small.fitter().fit(small.targets) for _ in range(2))
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.psnr, again.psnr)


def test_no_scan_gives_no_latent(small: Case) -> None:
    fitted = small.fitter().fit(small.targets[:0])
    assert fitted.latents.shape == (0, 24)
    assert fitted.psnr.shape == (0,)


def test_a_basis_field_is_fitted_exactly_whatever_the_method_says(small: Case) -> None:
    settings = FitSettings(method="gauss-newton", steps=7)
    found = new_fitter(small.trained.spec, small.trained.params, small.coordinates, settings, small.trained.extras)
    assert isinstance(found, ExactFitter)
    assert isinstance(found, Fitter)
    assert torch.equal(found.fit(small.targets).latents, small.fitter().fit(small.targets).latents)


def test_a_network_that_is_not_finite_is_refused_before_any_scan(small: Case) -> None:
    params = {name: tensor * math.nan for name, tensor in small.trained.params.items()}
    broken = replace(small, trained=replace(small.trained, params=params))
    with pytest.raises(MedfunctaError, match="Gram matrix") as caught:
        broken.fitter()
    assert "fit.ridge" in caught.value.do
    assert "meta.ridge" not in caught.value.do
    assert "checkpoints" not in caught.value.do
