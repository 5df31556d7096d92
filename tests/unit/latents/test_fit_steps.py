"""The methods of fitting, and the run file's names for them."""

from __future__ import annotations

from typing import get_args

from medfuncta_dist.config.sections.fit_section import Fit
from medfuncta_dist.latents.fit_steps import METHODS, Method


def test_the_run_file_names_every_method_and_no_other() -> None:
    assert get_args(Method) == tuple(METHODS)
    assert get_args(Fit.model_fields["method"].annotation) == (*METHODS, "exact")
