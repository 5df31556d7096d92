"""The one rule of where a task computes."""

from __future__ import annotations

import pytest
import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.device import device_model, granted_device, require_device

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_grant_decides_whatever_is_visible(visible_gpu: None) -> None:
    assert [granted_device(gpus) for gpus in (0, 0.0, 0.25, 1, 2)] == [CPU, CPU, GPU, GPU, GPU]


def test_a_gpu_has_its_maker_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model of {device}")
    assert [device_model(device) for device in (CPU, torch.device("cuda:1"))] == ["cpu", "model of cuda:1"]


def test_a_driver_without_a_gpu_may_ask_for_its_tasks() -> None:
    assert granted_device(1) == GPU


def test_a_gpu_that_torch_cannot_use_is_an_error_in_the_task() -> None:
    assert require_device(CPU) == CPU
    with pytest.raises(MedfunctaError, match="was granted a GPU, but torch") as found:
        require_device(GPU)
    assert "cluster.gpus_per_worker: 0" in found.value.do


def test_a_gpu_that_torch_sees_is_taken_when_granted(visible_gpu: None) -> None:
    assert require_device(GPU) == GPU


@pytest.mark.gpu
def test_on_a_gpu_torch_computes() -> None:
    assert torch.ones(1, device=require_device(granted_device(1))).add(1).item() == 2
