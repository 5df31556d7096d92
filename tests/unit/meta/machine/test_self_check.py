"""The trial of the ways to run a step. Recording is tried with a recorder that a CPU has (``recorders.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medfuncta_dist.meta.machine import compiled, self_check
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import Work
from medfuncta_dist.meta.machine.self_check import LEAST_GAIN, Trial, Verdict
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import problem
from tests.unit.meta.recorders import record_trace

SPEC = problem(2, "paper", 1.0).spec
TRIAL = Trial(SPEC, 20, 0.5, 3, 2, Chunks(20, 3), Arithmetic("torch"), threads=1, gpus=0, compiling=True, graphs=True)


@pytest.fixture(autouse=True)
def _free_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The compiler changes nothing: what is tested is the choice."""
    monkeypatch.setattr(torch, "compile", lambda sweep, **_: sweep)
    monkeypatch.setattr(compiled, "_proven", set())
    compiled._compiled.cache_clear()
    yield
    compiled._compiled.cache_clear()


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Eager, compiled, recorded, both: the order in which they are timed."""
    left = iter(seconds)
    monkeypatch.setattr(self_check, "least_seconds", lambda *_: next(left))


def check(trial: Trial = TRIAL, record: Any = record_trace) -> Verdict:
    return self_check.self_check(trial, record)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((1, 0.5, 0.6, 0.4), (True, True)),
        ((1, 0.4, 0.6, 0.5), (True, False)),
        ((1, 1.2, 0.6, 1.1), (False, True)),
        ((1, 1, 1, 0.99 / LEAST_GAIN), (True, True)),
        ((1, 1, 1, 1.01 / LEAST_GAIN), (False, False)),
    ],
)
def test_the_fastest_is_taken_if_it_gains(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...], expected: tuple[bool, bool]
) -> None:
    timed(monkeypatch, *seconds)
    verdict = check()
    assert (verdict.compiled, verdict.captured) == expected
    assert f"{seconds[3]:.3g} s compiled and as a CUDA graph" in verdict.reason


def test_only_what_is_wanted_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1, 0.1)
    assert check(replace(TRIAL, compiling=False)) == Verdict(
        False, True, "one step takes 1 s eager, 0.1 s as a CUDA graph"
    )
    timed(monkeypatch, 1, 0.1)
    assert check(replace(TRIAL, graphs=False)).compiled


def test_recording_is_tried_with_the_compiled_sweeps_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1, 0.1)
    given = replace(TRIAL, compiling=False, arithmetic=Arithmetic("torch", compiled=True))
    assert check(given).reason == "one step takes 1 s compiled, 0.1 s compiled and as a CUDA graph"


def test_a_recording_that_goes_stale_is_out_although_its_first_replay_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """It replays its first inputs for ever, as a graph does whose input was left out of what is copied."""

    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        return lambda: None, record_trace(work, inputs)[1]

    timed(monkeypatch, 1, 0.5)
    verdict = check(replace(TRIAL, compiling=False), record)
    assert not verdict.captured
    assert "a step as a CUDA graph differs from the eager one" in verdict.reason


def test_a_step_that_cannot_be_recorded_is_out_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        raise RuntimeError("operation not permitted when stream is capturing")

    timed(monkeypatch, 1, 0.5)
    verdict = check(record=record)
    assert (verdict.compiled, verdict.captured) == (True, False)
    assert "cannot be recorded (RuntimeError: operation not permitted" in verdict.reason


def test_too_little_memory_to_record_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    timed(monkeypatch, 1, 0.5)
    assert "not enough memory to record a step" in check(record=record).reason


def test_times_are_taken() -> None:
    verdict = check(replace(TRIAL, graphs=False))
    assert "one step takes" in verdict.reason
    assert "s compiled" in verdict.reason
