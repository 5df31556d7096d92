"""All steps of a block as one recording: they read no value on the host, and replays are the eager fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import CHECKED, Replayed, agrees_with_replays
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import Problem, problem
from tests.unit.meta.recorders import reads_no_value, record_trace

EAGER = {"chunks": Chunks(8, 2), "arithmetic": Arithmetic("torch")}
METHODS = {
    "sgd": FitSettings(3, 0.1, **EAGER),
    "sgd on parts of the points": FitSettings(3, 0.1, selection_ratio=0.5, full_steps=1, **EAGER),
    "published rescaling": FitSettings(2, 0.1, rescale=0.5, **EAGER),
    "momentum, int8": FitSettings(3, 0.1, method="momentum", storage_type="int8", **EAGER),
    "closed form, target": FitSettings(3, 0.1, closed_form=True, target_psnr=20.0, **EAGER),
    "gauss-newton": FitSettings(3, method="gauss-newton", curvature_ratio=0.5, closed_form=True, **EAGER),
    "gauss-newton on parts": FitSettings(3, method="gauss-newton", selection_ratio=0.7, **EAGER),
}
PROBLEM = problem(2, "paper", 1.0, batch=5, dtype=torch.float32)


def fitter_of(settings: FitSettings, p: Problem = PROBLEM) -> StepwiseFitter:
    fitter = StepwiseFitter(p.spec, p.params, p.coordinates, settings)
    fitter._asks, fitter._block = False, settings.block or 2  # as on a GPU
    return fitter


def scans(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, *PROBLEM.targets.shape[1:], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", METHODS)
def test_replays_of_a_block_are_the_eager_fit(name: str) -> None:
    fitter = fitter_of(METHODS[name])
    with torch.no_grad():
        fresh = [(scans(seed),) for seed in range(CHECKED.stop)]
        assert agrees_with_replays(fitter.work, Replayed(fitter.work, record_trace), fresh) == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_block_reads_no_value_on_the_host(name: str) -> None:
    fitter = fitter_of(METHODS[name])
    with torch.no_grad():
        fitter.work(scans(0))  # what depends on the network alone is made once
        reads_no_value(fitter.work, [scans(1)])


def test_blocks_keep_their_results_although_replays_share_memory() -> None:
    settings = METHODS["sgd"]
    eager, replaying = fitter_of(settings), fitter_of(settings)
    replaying._network = replace(replaying._network, arithmetic=replace(EAGER["arithmetic"], captured=True))  # type: ignore[type-var]
    replaying._replayed = Replayed(replaying.work, record_trace)
    found, expected = replaying.fit(PROBLEM.targets), eager.fit(PROBLEM.targets)
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.psnr, expected.psnr)
    again = replaying.fit(scans(7, 5))
    assert not torch.equal(again.latents, found.latents)
    assert torch.equal(found.latents, expected.latents)


def test_memory_that_runs_out_halves_blocks_and_chunks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(2, "paper", 1.0, batch=5)
    settings = replace(METHODS["sgd"], block=4, chunks=Chunks(20, 4))
    fitter, plain = fitter_of(settings, p), fitter_of(settings, p)
    work, most = fitter.work, 2

    def short(targets: Tensor) -> list[Tensor]:
        if len(targets) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(targets)

    monkeypatch.setattr(fitter, "work", short)
    torch.testing.assert_close(fitter.fit(p.targets).latents, plain.fit(p.targets).latents, rtol=1e-10, atol=0)
    assert (fitter.halved, plain.halved) == (True, False)
    most = 1
    with pytest.raises(MedfunctaError, match="although chunks were halved already"):
        fitter.fit(p.targets)
