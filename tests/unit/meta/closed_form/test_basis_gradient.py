"""The closed form's gradient against autograd through ``torch.linalg``, and against finite differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.closed_form import basis_gradient as module
from medfuncta_dist.meta.closed_form.basis_gradient import (
    BasisGradient,
    LinearFit,
    basis_gradient,
    solve,
    solved_losses,
)
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from tests.unit.meta.closed_form.linear_problems import linear_fit, on_threads, rows_of, seen_values, with_grid

RIDGE = 1e-2
"""Large enough for its own part of the gradient to be far above the tolerances."""
BLOCKS = (1, 7, 10_000)


def oracle(fit: LinearFit, ridge: float = RIDGE) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses, and autograd's gradient of their sum through one dense solve."""
    params = {name: tensor.clone().requires_grad_() for name, tensor in fit.grid.params.items()}
    mean, rows = rows_of(fit, params)
    residues = fit.targets.flatten(1) - mean
    seen = seen_values(fit)
    gram = rows[seen].T @ rows[seen]
    regular = gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    latents = torch.linalg.solve(regular, rows[seen].T @ residues[:, seen].T).T
    losses = (latents @ rows.T - residues).square().mean(1)
    found = torch.autograd.grad(losses.sum(), list(params.values()))
    return losses.detach(), dict(zip(params, found, strict=True))


def assert_near(found: Tensor, expected: Tensor, relative: float, what: str = "") -> None:
    assert expected.norm() > 0, what
    assert (found - expected).norm() <= relative * expected.norm(), what


@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_losses_and_every_gradient_are_those_of_autograd(dims: int, channels: int, ratio: float) -> None:
    losses, expected = oracle(linear_fit(dims, channels, ratio))
    for block in BLOCKS:
        fit = linear_fit(dims, channels, ratio, block=block)
        found = basis_gradient(fit, RIDGE)
        assert_near(found.losses, losses, 1e-12)
        assert found.params.keys() == expected.keys() == fit.grid.spec.shapes().keys()
        for name, gradient in found.params.items():
            assert_near(gradient, expected[name], 1e-10, name)


def test_a_deeper_trunk_and_the_ridge_of_the_run_file_change_nothing_about_that() -> None:
    fit = linear_fit(2, 2, 0.6, block=7, layers=5, scans=1)
    losses, expected = oracle(fit, 1e-4)
    found = basis_gradient(fit, 1e-4)
    assert_near(found.losses, losses, 1e-12)
    for name, gradient in found.params.items():
        assert_near(gradient, expected[name], 1e-10, name)


def slope(fit: LinearFit, name: str, index: int, h: float = 1e-5) -> float:
    """The derivative of the summed losses by one number of θ, by central differences."""
    sums = []
    for step in (h, -h):
        moved = fit.grid.params[name].clone()
        moved.view(-1)[index] += step
        sums.append(float(solved_losses(with_grid(fit, params=fit.grid.params | {name: moved}), RIDGE).sum()))
    return (sums[0] - sums[1]) / (2 * h)


@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_gradient_is_that_of_finite_differences(dims: int, channels: int, ratio: float) -> None:
    fit = linear_fit(dims, channels, ratio, block=11)
    for name, gradient in basis_gradient(fit, RIDGE).params.items():
        slopes = [slope(fit, name, index) for index in range(gradient.numel())]
        assert_near(gradient.flatten(), torch.tensor(slopes, dtype=torch.float64), 1e-6, name)


@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize("block", BLOCKS)
def test_losses_alone_are_those_of_the_whole(block: int, ratio: float) -> None:
    fit = linear_fit(2, 2, ratio, block=block)
    assert torch.equal(solved_losses(fit, RIDGE), basis_gradient(fit, RIDGE).losses)


def in_float32(block: int, arithmetic: Arithmetic) -> LinearFit:
    sizes = {"features": 160, "hidden": 144, "scans": 6}
    return linear_fit(2, 1, 0.5, block=block, dtype=torch.float32, shape=(40, 30), arithmetic=arithmetic, **sizes)


def as_double(fit: LinearFit) -> LinearFit:
    params = {name: tensor.double() for name, tensor in fit.grid.params.items()}
    moved = with_grid(fit, params=params, coordinates=fit.grid.coordinates.double())
    return replace(moved, targets=fit.targets.double())


@pytest.mark.parametrize("arithmetic", [Arithmetic("torch"), Arithmetic.best(torch.device("cpu"))], ids=str)
def test_float32_agrees_with_float64(arithmetic: Arithmetic) -> None:
    fit = in_float32(256, arithmetic)
    losses, expected = oracle(as_double(fit))
    found = basis_gradient(fit, RIDGE)
    assert found.losses.dtype == torch.float32
    assert_near(found.losses.double(), losses, 1e-5)
    assert {gradient.dtype for gradient in found.params.values()} == {torch.float32}
    together = [torch.cat([each[name].double().flatten() for name in expected]) for each in (found.params, expected)]
    assert_near(*together, 3e-4)


def equal(one: BasisGradient, other: BasisGradient) -> bool:
    same = all(torch.equal(one.params[name], tensor) for name, tensor in other.params.items())
    return same and torch.equal(one.losses, other.losses) and torch.equal(one.factor.lower, other.factor.lower)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_features_that_are_kept_and_those_computed_again_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    fit = in_float32(256, Arithmetic.best(torch.device("cpu")))
    if ratio == 1.0:
        fit = replace(fit, context=None)
    assert fit.kept_blocks() is not None
    kept, losses = basis_gradient(fit, RIDGE), solved_losses(fit, RIDGE)
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    assert fit.kept_blocks() is None
    assert equal(basis_gradient(fit, RIDGE), kept)
    assert torch.equal(solved_losses(fit, RIDGE), losses)


def test_the_same_step_twice_gives_the_same_bits() -> None:
    fit = in_float32(256, Arithmetic.best(torch.device("cpu")))
    assert equal(basis_gradient(fit, RIDGE), basis_gradient(fit, RIDGE))


def test_the_given_parameters_are_left_as_they_are() -> None:
    fit = linear_fit(2, 2, 0.6)
    before = {name: tensor.clone() for name, tensor in fit.grid.params.items()}
    basis_gradient(fit, RIDGE)
    assert all(torch.equal(before[name], tensor) for name, tensor in fit.grid.params.items())
    assert not any(tensor.requires_grad for tensor in fit.grid.params.values())


def test_a_context_of_all_points_is_no_context() -> None:
    fit = linear_fit(3, 2)
    everything = replace(fit, context=torch.arange(len(fit.grid.coordinates)))
    assert equal(basis_gradient(everything, RIDGE), basis_gradient(fit, RIDGE))


@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_latents_solve_the_normal_equations_of_the_context(ratio: float) -> None:
    fit = linear_fit(2, 2, ratio, block=7)
    latents = solve(fit, RIDGE)[1]
    mean, rows = (values[seen_values(fit)] for values in rows_of(fit))
    residues = (fit.targets.flatten(1) - rows_of(fit)[0])[:, seen_values(fit)]
    added = RIDGE * float((rows.T @ rows).diagonal().mean())
    gradient = (latents @ rows.T - residues) @ rows + added * latents
    assert gradient.norm() <= 1e-10 * (residues @ rows).norm()
    assert len(mean) == len(rows)


@pytest.mark.parametrize("size", [2, 3, 40])
@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_ranks_that_divide_the_points_find_the_same_losses_and_parts_of_the_gradient(ratio: float, size: int) -> None:
    """Of 30 points; with 40 ranks some have none."""
    fit = linear_fit(2, 2, ratio, block=4)
    alone = basis_gradient(fit, RIDGE)
    parts = on_threads(size, lambda ranks: basis_gradient(with_grid(fit, ranks=ranks), RIDGE))
    for part in parts:
        assert_near(part.losses, alone.losses, 1e-12)
        assert torch.equal(part.losses, parts[0].losses)
    for name, gradient in alone.params.items():
        assert_near(torch.stack([part.params[name] for part in parts]).sum(0), gradient, 1e-10, name)


class LargestTensor(TorchDispatchMode):
    """The most bytes of one storage, of all that are made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def largest(points: int, block: int) -> int:
    """Bytes of the largest tensor of one gradient, with 32 functions and two scans."""
    fit = linear_fit(1, 1, 0.5, block=block, shape=(points,), features=32, hidden=16, scans=2)
    with LargestTensor() as made:
        basis_gradient(fit, RIDGE)
    return made.bytes


def test_no_tensor_grows_with_the_points_but_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    points, number = 4096, 8
    assert largest(points, 64) == largest(2 * points, 64) == 64 * 32 * number
    assert largest(points, points) == points * 32 * number, "or the blocks were not what limits it"


def test_features_are_kept_only_up_to_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = linear_fit(2, 2)
    monkeypatch.setattr(module, "KEPT_BYTES", fit.grid.values * fit.grid.spec.features * 8)
    assert fit.kept_blocks() is not None
    monkeypatch.setattr(module, "KEPT_BYTES", fit.grid.values * fit.grid.spec.features * 8 - 1)
    assert fit.kept_blocks() is None


def test_a_field_that_is_not_finite_is_refused_by_the_keys_that_training_has() -> None:
    fit = linear_fit(2)
    params = {name: tensor * torch.nan for name, tensor in fit.grid.params.items()}
    broken = replace(fit, grid=replace(fit.grid, params=params))
    for compute in (basis_gradient, solved_losses):
        with pytest.raises(MedfunctaError, match="Gram matrix") as caught:
            compute(broken, RIDGE)
        assert "train.rate" in caught.value.do
        assert "meta.ridge" in caught.value.do
        assert "fit.ridge" not in caught.value.do
