"""How the core computes, where there is a choice that shows in the results: settled when a run starts, and recorded.

Chunk sizes (``chunks.py``) are one more such choice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal

import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.onednn import onednn_works
from medfuncta_dist.meta.machine.precision import Precision, settle_default

Products = Literal["onednn", "torch", "triton"]


@dataclass(frozen=True)
class Arithmetic:
    """How matrices are multiplied and sweeps are run.

    ``products``: the library; ``triton`` means our kernels for a GPU's tensor cores (``gpu_kernels.py``).
    ``compiled``: sweeps go through ``torch.compile`` (``compiled.py``). ``precision``: of a GPU's float32 products
    (``precision.py``). ``captured``: whole steps are replayed as CUDA graphs (``captured.py``), which gives the same
    numbers.
    """

    products: Products
    compiled: bool = False
    precision: Precision = "fp32"
    captured: bool = False

    @classmethod
    def best(cls, device: torch.device) -> Arithmetic:
        """Eager, float32, with the library that is fastest here: oneDNN on a CPU that has it, torch's own elsewhere."""
        return cls("onednn" if device.type == "cpu" and onednn_works() else "torch")

    def require(self, device: torch.device) -> Arithmetic:
        """This arithmetic as this process can do it on the device: precision and graphs are a GPU's.

        MedfunctaError, rather than other bits.
        """
        if self.products == "onednn" and not (device.type == "cpu" and onednn_works()):
            raise MedfunctaError(
                f"the run multiplies matrices with oneDNN, which this process cannot do on {device.type}",
                where=f"torch {torch.__version__}",
                do="use identical workers (the same torch, all with or all without a GPU), or start a run under "
                "another name with meta.products: torch",
            )
        if self.products == "triton" and not kernels_work(device):
            raise MedfunctaError(
                f"the run computes with GPU kernels, which this process cannot do on {device.type}",
                where=f"torch {torch.__version__}, Triton {'found' if find_spec('triton') else 'not installed'}",
                do="use identical workers (the same torch and triton, a GPU from Ampere on), or start a run under "
                "another name with meta.products: torch",
            )
        settle_default(device)
        return (
            self
            if device.type == "cuda" or self.products == "triton"
            else replace(self, precision="fp32", captured=False)
        )


def kernels_work(device: torch.device) -> bool:
    """Whether our GPU kernels run there: from Ampere on, whose tensor cores know TF32; on a CPU in Triton's interpreter
    alone, which tests use."""
    if find_spec("triton") is None:
        return False
    if device.type != "cuda":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
