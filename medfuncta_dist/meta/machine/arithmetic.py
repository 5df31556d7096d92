"""How the core computes, where there is a choice that shows in the results: settled when a run starts, and recorded.

Chunk sizes (``chunks.py``) are one more such choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.onednn import onednn_works
from medfuncta_dist.meta.machine.precision import Precision, settle_default

Products = Literal["onednn", "torch"]


@dataclass(frozen=True)
class Arithmetic:
    """How matrices are multiplied and sweeps are run.

    ``products``: the library. ``compiled``: sweeps go through ``torch.compile`` (``compiled.py``). ``precision``: of a
    GPU's float32 products (``precision.py``). ``captured``: whole steps are replayed as CUDA graphs (``captured.py``);
    the same kernels, so the same numbers.
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
        settle_default(device)
        return self if device.type == "cuda" else replace(self, precision="fp32", captured=False)
