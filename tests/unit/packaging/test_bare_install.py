"""The compute core and its benchmarks where only torch, NumPy, safetensors and jaxtyping are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bare_install.bare_python import BARE, on_bare_install
from tests.bare_install.compute_core import BASIS, FITS, compute

INSTALLED = ("ray", "pydantic", "yaml", "pyarrow", "typer", "psutil", "deepspeed", "webdataset", "pytest")
LOOK = """
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
import jaxtyping, numpy, safetensors.torch, torch, medfuncta_dist
for name in sys.argv[1:]:
    assert find_spec(name) is None, name
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} was imported")
try:
    version("ray")
except PackageNotFoundError:
    print(version("torch"))
"""


def test_the_guard_hides_what_is_installed() -> None:
    assert on_bare_install("-c", LOOK, *INSTALLED).strip() == torch.__version__


def test_the_core_computes_there_what_it_computes_here(tmp_path: Path) -> None:
    found = json.loads(on_bare_install(str(BARE / "compute_core.py"), str(tmp_path / "bare")))
    here = compute(tmp_path / "here")
    assert found == here
    assert {f"siren: {method}, decoded" for method in FITS} | {f"{BASIS.KIND}: exact, decoded"} <= found.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["meta_step", "fit_throughput"])
def test_a_benchmark_of_the_core_runs_there(name: str) -> None:
    found: dict[str, Any] = json.loads(on_bare_install("-m", f"benchmarks.{name}", "--short"))
    assert found["benchmark"] == name
    assert found["claims"]
    assert found["versions"].keys() == {"python", "torch", "numpy"}
