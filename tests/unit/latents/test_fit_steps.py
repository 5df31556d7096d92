"""The methods of fitting, and the run file's names for them."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from medfuncta_dist.config.sections.fit_section import Fit
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.latents.curvature_forms import Primal
from medfuncta_dist.latents.fit import new_fitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.fit_steps import METHODS, Method


def test_the_run_file_names_every_method_and_no_other() -> None:
    assert get_args(Method) == tuple(METHODS)
    assert get_args(Fit.model_fields["method"].annotation) == (*METHODS, "exact")


def test_a_siren_is_not_fitted_by_another_method_than_its_settings_say() -> None:
    spec = SirenSpec(1, 1, 3, 4, 2, (5.0, 6.0))
    params = init_params(spec, torch.Generator().manual_seed(0))
    with pytest.raises(RunFileError, match="'exact'") as caught:
        new_fitter(spec, params, grid([9]), FitSettings(method="exact"))
    assert "sgd, momentum, gauss-newton" in caught.value.do


def test_a_matrix_without_a_factor_gives_no_step_and_spoils_no_other() -> None:
    good = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    matrix = torch.stack([good, -good, good * math.nan, good])
    right = torch.tensor([[1.0, 2.0]] * 4, dtype=torch.float64)
    solution, solved = Primal(matrix).damped_solution(torch.full((4,), 0.1, dtype=torch.float64), right)
    assert solved.tolist() == [True, False, False, True]
    expected = torch.linalg.solve(good + 0.15 * torch.eye(2, dtype=torch.float64), right[0])
    torch.testing.assert_close(solution, expected * solved[:, None])


def test_a_shared_matrix_without_a_factor_stops_every_scan() -> None:
    right = torch.ones(3, 2)
    solution, solved = Primal(-torch.eye(2)[None]).damped_solution(torch.ones(3), right)
    assert not solved.any()
    assert torch.equal(solution, 0 * right)
