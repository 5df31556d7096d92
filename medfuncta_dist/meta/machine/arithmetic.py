"""How the core computes, where there is a choice that shows in the last bits: settled when a run starts, and recorded.

Chunk sizes (``chunks.py``) are the third such choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.products import Products, onednn_works


@dataclass(frozen=True)
class Arithmetic:
    """The library that multiplies matrices, and whether sweeps go through ``torch.compile`` (``compiled.py``)."""

    products: Products
    compiled: bool = False

    @classmethod
    def best(cls, device: torch.device) -> Arithmetic:
        """Eager, with the library that is fastest here: oneDNN on a CPU that has it, torch's own elsewhere."""
        return cls("onednn" if device.type == "cpu" and onednn_works() else "torch")

    def require(self, device: torch.device) -> Arithmetic:
        """Itself, if this process can compute so. MedfunctaError, rather than other bits."""
        if self.products == "onednn" and not (device.type == "cpu" and onednn_works()):
            raise MedfunctaError(
                f"the run multiplies matrices with oneDNN, which this process cannot do on {device.type}",
                where=f"torch {torch.__version__}",
                do="use identical workers (the same torch, all with or all without a GPU), or start a run under "
                "another name with meta.products: torch",
            )
        return self
