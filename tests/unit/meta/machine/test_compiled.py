from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.latents.fit import fit_batch
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.machine import compiled
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.self_check import Trial, self_check
from medfuncta_dist.meta.meta_gradient import meta_gradient
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold
from tests.unit.meta.problems import problem

EAGER = Arithmetic.best(torch.device("cpu"))
COMPILED = replace(EAGER, compiled=True)
SMALL = problem(2, "paper", 1.0, dtype=torch.float32)
TRIAL = Trial(SMALL.spec, 20, 0.5, 3, 1, Chunks(20, 3), EAGER, threads=1, gpus=0)


@pytest.fixture(autouse=True)
def _nothing_proven(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "_proven", set())
    compiled._compiled.cache_clear()
    yield
    compiled._compiled.cache_clear()


def as_compiler(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """In the place of ``torch.compile``: what it returns has its result changed."""
    return lambda sweep, **_: lambda *inputs: change(sweep(*inputs))


def step(arithmetic: Arithmetic) -> Any:
    return meta_gradient(SMALL.objective(Chunks(20, 3), arithmetic), SMALL.contexts, SMALL.rate)


def wrong_by(size: float) -> Callable[[Any], Any]:
    return lambda result: tuple(part * (1 + size) if isinstance(part, torch.Tensor) else part for part in result)


# In a process without the tests' shape checks, which wrap every function: the compiler cannot see through them.
IN_A_CLEAN_PROCESS = """
import torch
from dataclasses import replace
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.machine.compiled import _proven
from medfuncta_dist.meta.sweeps.folded import ThetaGradient
from medfuncta_dist.meta.sweeps.inner_gradient import shift_gradient
from tests.unit.meta.problems import problem
torch.set_num_threads(1)
p = problem(2, "code", 1.0, dtype=torch.float32)
eager = Arithmetic.best(torch.device("cpu"))
plain, fast = (p.objective(Chunks(20, 3), how) for how in (eager, replace(eager, compiled=True)))
wanted, found, again = (ThetaGradient(one.network) for one in (plain, fast, fast))
expected = shift_gradient(plain, wanted)
for theta in (found, again):
    torch.testing.assert_close(shift_gradient(fast, theta), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(theta.weights, wanted.weights, rtol=1e-5, atol=1e-6)
print(len(_proven), torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="without a compiler runs are eager, which is tested below")
def test_a_compiled_sweep_is_the_eager_one() -> None:
    """The compiler itself, on the sweep that every inner step takes, θ's gradient included: one kind, one graph."""
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # no pool of processes for one small graph
    done = subprocess.run([sys.executable, "-c", IN_A_CLEAN_PROCESS], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"], done.stderr


THREE_PASSES_IN_A_CLEAN_PROCESS = """
import torch
from dataclasses import replace
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.meta_gradient import meta_gradient
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import problem
torch.set_num_threads(1)
inner, compile = [], torch.compile
def backend(graph, inputs):
    for node in graph.graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        if name in ("matmul", "addmm", "addmm_", "mm", "bmm", "einsum", "baddbmm_"):
            inner.append(node.args[-1].meta["example_value"].shape[-2])
    return graph.forward
torch.compile = lambda sweep, **how: compile(sweep, backend=backend, **how)
p = problem(2, "paper", 1.0, dtype=torch.float32)
objective = p.objective(Chunks(20, 3), Arithmetic("torch"))
network = replace(objective.network, arithmetic=Arithmetic("torch", compiled=True, precision="tf32x3"))
found = meta_gradient(replace(objective, network=network), p.contexts, p.rate)
torch.testing.assert_close(found.losses, meta_gradient(objective, p.contexts, p.rate).losses)
print(len(inner) > 20, sorted(size for size in set(inner) if size % 3))
"""


def test_what_is_compiled_for_tensor_cores_multiplies_only_in_three_passes() -> None:
    """All products of compiled code may use them: one of coordinates as they are would move every point."""
    code = THREE_PASSES_IN_A_CLEAN_PROCESS
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True []", done.stderr


def test_memory_that_runs_out_is_not_the_compilers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the step has smaller chunks; an error of the compiler would end the run."""

    def full(result: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "compile", as_compiler(full))
    with pytest.raises(torch.OutOfMemoryError):
        step(COMPILED)


def test_wrong_numbers_are_an_error_and_not_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", as_compiler(wrong_by(1e-3)))
    with pytest.raises(
        MedfunctaError, match=r"compiled gradient_sweep differs from the eager one by 1\.0e-03"
    ) as found:
        step(COMPILED)
    assert "meta.compile: off" in found.value.do


def test_each_shape_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", as_compiler(lambda result: result))
    step(COMPILED)
    before = len(compiled._proven)
    step(COMPILED)
    assert len(compiled._proven) == before
    settings = FitSettings(2, 0.1, chunks=Chunks(7, 2), arithmetic=COMPILED)
    fit_batch(SMALL.spec, SMALL.params, SMALL.coordinates, SMALL.targets, settings)
    assert len(compiled._proven) > before + 4  # blocks of 7 and of 6 points, of 2 scans and of 1


def test_a_scan_that_is_not_a_number_is_not_the_compilers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", as_compiler(lambda result: result))
    spoiled = SMALL.targets.clone()
    spoiled[1, 3] = float("nan")
    settings = FitSettings(2, 0.1, arithmetic=COMPILED)
    fitted = fit_batch(SMALL.spec, SMALL.params, SMALL.coordinates, spoiled, settings)
    assert fitted.finite.tolist() == [True, False, True]


@pytest.mark.parametrize("size", [1e-3, float("nan")])
def test_the_self_check_refuses_a_broken_compiler(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(torch, "compile", as_compiler(wrong_by(size)))
    verdict = self_check(TRIAL)
    assert not verdict.compiled
    assert "differs" in verdict.reason


def test_the_self_check_goes_on_without_a_compiler() -> None:
    clean = """
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.machine.self_check import Trial, self_check
from tests.unit.meta.problems import problem
spec = problem(2, "paper", 1.0).spec
print(self_check(Trial(spec, 19, 0.5, 3, 1, Chunks(20, 3), Arithmetic("torch"), threads=1, gpus=0)))
"""
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", clean], env=environment, capture_output=True, text=True, check=True)
    assert "compiled=False" in done.stdout
    assert "does not compile here" in done.stdout
    assert "no-such-compiler" in done.stdout or "C++ compiler" in done.stdout


def test_the_self_check_computes_where_it_was_granted(monkeypatch: pytest.MonkeyPatch, visible_gpu: None) -> None:
    monkeypatch.setattr(torch, "compile", as_compiler(lambda result: result))
    assert "s compiled" in self_check(TRIAL).reason  # both were timed: nothing asked for the GPU


def test_the_self_check_says_that_the_granted_gpu_is_not_there() -> None:
    with pytest.raises(MedfunctaError, match="was granted a GPU"):
        self_check(replace(TRIAL, gpus=1))


def test_a_process_that_can_not_multiply_as_the_run_does_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfuncta_dist.meta.machine.arithmetic.onednn_works", lambda: False)
    assert Arithmetic.best(torch.device("cpu")) == Arithmetic("torch")
    with pytest.raises(MedfunctaError, match="multiplies matrices with oneDNN") as found:
        fold(SMALL.spec, SMALL.params, Arithmetic("onednn"))
    assert "meta.products: torch" in found.value.do
    fold(SMALL.spec, SMALL.params, Arithmetic("torch"))


def test_oneDNN_is_not_for_a_gpu() -> None:
    with pytest.raises(MedfunctaError, match="on cuda"):
        Arithmetic("onednn").require(torch.device("cuda"))
    assert Arithmetic.best(torch.device("cuda")) == Arithmetic("torch")
