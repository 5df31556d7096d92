"""Where the benchmarks of the compute core compute, and when their clocks are read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import exact_fit, fit_throughput, meta_step
from benchmarks.common import device

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL = fit_throughput.SMALL


def test_the_device_is_the_gpu_where_there_is_one(visible_gpu: None) -> None:
    assert device() == torch.device("cuda")


def test_the_device_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device() == CPU
    assert fit_throughput.device is exact_fit.device is meta_step.device is device


def test_a_time_begins_and_ends_when_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr("benchmarks.fit_throughput.wait_for", lambda _: done.append("waited"))
    monkeypatch.setattr("benchmarks.fit_throughput.time", clock(done))
    fit_throughput.timed(lambda: done.append("work"))
    assert done == ["waited", "clock", "work", "waited", "clock"]


def test_a_step_s_time_begins_and_ends_when_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr("benchmarks.meta_step.prepared", lambda _: (lambda: done.append("work"), lambda: None))
    monkeypatch.setattr("benchmarks.meta_step.wait_for", lambda _: done.append("waited"))
    monkeypatch.setattr("benchmarks.meta_step.time", clock(done))
    meta_step.seconds_of(meta_step.Case("plain", 1, 1.0))()
    assert done == ["waited", "clock", "work", "waited", "clock"]


def clock(done: list[str]) -> SimpleNamespace:
    """The module ``time``, which notes when it is read."""
    return SimpleNamespace(perf_counter=lambda: done.append("clock") or 0.0)


def test_the_published_fit_computes_where_its_scan_is() -> None:
    """On torch's device without numbers: products of its tensors with others fail, as on a GPU."""
    params = fit_throughput.started(SMALL, META)
    coordinates = fit_throughput.small_grid(params)
    latent = fit_throughput.published_fit(SMALL, params, coordinates, torch.rand(1, 784, 1, device=META), 2)
    assert (latent.device, latent.shape) == (META, (1, SMALL.latent))
