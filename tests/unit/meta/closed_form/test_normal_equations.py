"""Sums over points, and the factor: what it solves, how well it knows its condition, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.closed_form.normal_equations import RAISED, RAISES, Factor, Sums
from tests.unit.meta.closed_form.linear_problems import TORCH, linear_fit, rows_of

CPU = torch.device("cpu")
DO = "change what the caller can"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regular(gram: Tensor, ridge: float) -> Tensor:
    return gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_sums_of_parts_are_those_of_the_whole_in_float64(dtype: torch.dtype) -> None:
    rows, residues = random(50, 6).to(dtype), random(3, 50, seed=1).to(dtype)
    sums = Sums.zeros(3, 6, CPU)
    for part in (slice(0, 20), slice(20, 21), slice(21, 50)):
        sums.add(rows[part], residues[:, part], TORCH)
    assert sums.gram.dtype == sums.right.dtype == torch.float64
    limit = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(sums.gram, (rows.T @ rows).double(), rtol=limit, atol=limit)
    torch.testing.assert_close(sums.right, (residues @ rows).double(), rtol=limit, atol=limit)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_factor_solves_for_every_row_in_its_type(dtype: torch.dtype) -> None:
    gram, right = random(40, 9).T @ random(40, 9), random(5, 9, seed=2).to(dtype)
    factor = Factor.of(gram, 1e-3, DO)
    assert factor.ridge == 1e-3
    found = factor.solve(right)
    assert found.dtype == dtype
    expected = torch.linalg.solve(regular(gram, 1e-3), right.double().T).T
    torch.testing.assert_close(found.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-11, atol=0)


def of_condition(condition: float, functions: int = 60) -> Tensor:
    """A random matrix whose eigenvalues fall evenly, by their logarithms, from 1."""
    vectors = torch.linalg.qr(random(functions, functions))[0]
    values = condition ** -torch.linspace(0, 1, functions, dtype=torch.float64)
    return (vectors * values) @ vectors.T


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e7])
@pytest.mark.parametrize("ridge", [1e-12, 1e-4, 1e-2])
def test_the_condition_number_is_right_to_a_fifth(condition: float, ridge: float) -> None:
    gram = of_condition(condition)
    expected = float(torch.linalg.cond(regular(gram, ridge)))
    assert Factor.of(gram, ridge, DO).condition() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("features", [12, 48])
def test_so_it_is_for_the_functions_of_a_field(features: int) -> None:
    rows = rows_of(linear_fit(2, 1, shape=(20, 20), features=features))[1]
    gram = rows.T @ rows
    expected = float(torch.linalg.cond(regular(gram, 1e-4)))
    assert expected > 1e3
    assert Factor.of(gram, 1e-4, DO).condition() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (2, 1), (4, 4)])
def test_a_matrix_that_is_not_finite_is_refused_in_the_callers_words(number: float, place: tuple[int, int]) -> None:
    gram = torch.eye(5, dtype=torch.float64)
    gram[place] = gram[place[::-1]] = number
    with pytest.raises(MedfunctaError, match=r"5 functions, ridge 0\.01") as caught:
        Factor.of(gram, 1e-2, DO)
    assert caught.value.do == DO
    assert Factor.found(gram, 1e-2) is None


def test_an_indefinite_matrix_is_refused_in_the_callers_words() -> None:
    gram = torch.diag(torch.tensor([4.0, 2.0, 1.0, -3.0], dtype=torch.float64))
    with pytest.raises(MedfunctaError, match="4 functions") as caught:
        Factor.of(gram, 1e-4, DO)
    assert caught.value.do == DO
    assert Factor.found(gram, 1e-4) is None


def test_a_ridge_that_rounding_outweighs_is_raised_and_told() -> None:
    gram = torch.diag(torch.tensor([2.0, 1.0, 1.0, -1e-5], dtype=torch.float64))
    factor = Factor.of(gram, 1e-7, DO)
    assert factor.ridge == pytest.approx(1e-7 * RAISED**3)
    right = random(2, 4)
    expected = torch.linalg.solve(regular(gram, factor.ridge), right.T).T
    torch.testing.assert_close(factor.solve(right), expected, rtol=1e-11, atol=0)
    with pytest.raises(MedfunctaError):
        Factor.of(gram, 1e-7 / RAISED ** (RAISES - 2), DO)
