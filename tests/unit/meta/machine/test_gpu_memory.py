from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.gpu_memory import GpuMemory, granted_memory, is_out_of_memory


def test_without_a_gpu_there_is_nothing_to_tell() -> None:
    assert granted_memory(0) is None
    with pytest.raises(MedfunctaError, match="was granted a GPU"):
        granted_memory(1)


@pytest.mark.parametrize(("gpus", "free"), [(1, 60), (0.25, 20), (0.9, 60), (2, 60)])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(monkeypatch: pytest.MonkeyPatch, gpus: float, free: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60, 80))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    assert granted_memory(gpus) == GpuMemory("a card", free)


def test_what_an_allocation_that_fails_raises() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("the sizes of tensors must match"))


def test_a_real_allocation_that_fails() -> None:
    code = f"""
import resource, torch
from medfuncta_dist.meta.machine.gpu_memory import is_out_of_memory
resource.setrlimit({resource.RLIMIT_AS}, (2**34, 2**34))
try:
    torch.empty(2**40)
except RuntimeError as error:
    print(is_out_of_memory(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
