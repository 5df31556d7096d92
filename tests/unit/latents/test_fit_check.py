"""The trial of recorded blocks, with a recorder that a CPU has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.latents import fit_check
from medfuncta_dist.latents.fit_check import FitTrial
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import Work
from medfuncta_dist.meta.machine.self_check import LEAST_GAIN
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import problem
from tests.unit.meta.recorders import record_trace

SETTINGS = FitSettings(2, 0.1, chunks=Chunks(8, 2), block=3, arithmetic=Arithmetic("torch", captured=True))
TRIAL = FitTrial(problem(2, "paper", 1.0).spec, (5, 4), SETTINGS, threads=1, gpus=0)


@pytest.mark.parametrize(("gain", "taken"), [(1.01 * LEAST_GAIN, True), (0.99 * LEAST_GAIN, False)])
def test_a_recorded_block_is_taken_if_it_gains(monkeypatch: pytest.MonkeyPatch, gain: float, taken: bool) -> None:
    seconds = iter([gain, 1.0])
    monkeypatch.setattr(fit_check, "least_seconds", lambda *_: next(seconds))
    verdict = fit_check.fit_check(TRIAL, record_trace)
    assert verdict.captured is taken
    assert "1 s as a CUDA graph" in verdict.reason


def stale(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
    return lambda: None, record_trace(work, inputs)[1]


def impossible(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
    raise RuntimeError("operation not permitted when stream is capturing")


def too_large(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (stale, "a recorded block differs from the eager one by"),
        (impossible, "cannot be recorded"),
        (too_large, "not enough memory to record"),
    ],
)
def test_what_is_not_right_is_not_taken(record: Callable[..., object], reason: str) -> None:
    verdict = fit_check.fit_check(TRIAL, record)
    assert not verdict.captured
    assert reason in verdict.reason


def test_a_granted_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(MedfunctaError, match="was granted a GPU"):
        fit_check.fit_check(FitTrial(TRIAL.spec, (5, 4), SETTINGS, threads=1, gpus=0.5))
