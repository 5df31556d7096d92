"""The GPU kernels, without a GPU: interpreted against float64, and compiled for the cards they are meant for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.arithmetic import Arithmetic, kernels_work

pytest.importorskip("triton", reason="a test needs triton, which the extra dev brings on Linux")

ROUNDING = {"tf32x3": 1e-6, "tf32": 5e-4}
"""Relative, of a product of 48 terms; a phase of size 30 multiplies it, and the interpreter does not round operands of
its own accord, so tf32 is what the kernels' own rounding leaves."""
SHARED = {"A100": 163 * 1024, "H100": 227 * 1024}
"""Bytes that a block of threads may have."""


def told_by(module: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.unit.meta.machine.{module}"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def checks() -> dict[str, Any]:
    return told_by("kernel_checks", TRITON_INTERPRET="1")


@pytest.mark.parametrize("precision", ROUNDING)
def test_products_are_those_of_float64(checks: dict[str, Any], precision: str) -> None:
    for kind in ("product", "product with parts", "product plus", "product plus row"):
        assert checks[f"{kind} {precision}"] < ROUNDING[precision], kind
    for kind in ("sine and cosine", "moving waves"):
        assert checks[f"{kind} {precision}"] < 20 * ROUNDING[precision], kind


def test_one_pass_sees_eleven_bits(checks: dict[str, Any]) -> None:
    assert 5e-5 < checks["product tf32"] < 5e-4
    assert checks["product tf32x3"] < checks["product tf32"] / 100


def test_the_way_back_through_a_sine(checks: dict[str, Any]) -> None:
    assert checks["damped"] < 1e-6
    assert checks["damped motion"] < 1e-6


def test_sine_and_cosine_far_from_the_origin(checks: dict[str, Any]) -> None:
    assert checks["sine of large phases, absolute"] < 1e-3  # float32 knows 8000 to 5e-4


@pytest.mark.parametrize("residual", ["", "residual "])
def test_a_whole_step_is_as_exact_as_torchs(checks: dict[str, Any], residual: str) -> None:
    assert checks[f"step {residual}tf32x3"] < 1e-5
    assert checks[f"step {residual}tf32x3"] < 3 * checks[f"step {residual}fp32"]
    assert 1e-5 < checks[f"step {residual}tf32"] < 5e-3


def test_a_trial_takes_sound_kernels_and_refuses_others(checks: dict[str, Any]) -> None:
    assert "s with our tf32x3 kernels" in checks["sound"]
    assert "a step with our tf32x3 kernels differs from the eager one" in checks["wrong"]
    assert checks["wrong products"] == "None"


def test_kernels_need_a_gpu(checks: dict[str, Any]) -> None:
    assert not kernels_work(torch.device("cpu"))
    with pytest.raises(MedfunctaError, match="GPU kernels, which this process cannot do on cpu") as found:
        Arithmetic("triton", precision="tf32x3").require(torch.device("cpu"))
    assert "meta.products: torch" in found.value.do


def test_kernels_fit_the_cards() -> None:
    builds = told_by("kernel_builds")
    assert len(builds) == 8
    for kind, found in builds.items():
        assert found["shared"] <= SHARED[kind.rsplit(", ")[-1]], kind
        assert found["registers"] <= 255, kind
        assert found["spilt"] <= 64, kind
