"""oneDNN's matrix product, asked for directly: float32, on a CPU.

torch's own matmul goes through MKL, which on AMD processors leaves AVX-512 unused (measured on an EPYC core, 1024 x 256
by 256 x 256: 98 GFLOP/s, against 215). The operator that does it belongs to torch's compiler and may go away, so it is
tried once; without it, torch's matmul is used.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def onednn_product(left: Tensor, right: Tensor, row: Tensor | None = None) -> Tensor:
    """left · right, plus the same row everywhere."""
    if torch.compiler.is_compiling():
        compiled: Tensor = torch.ops.medfuncta.linear(left, right, row)
        return compiled
    return _linear(left, right, row)


def _linear(left: Tensor, right: Tensor, row: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.T, row, "none", [], "")
    return result


# The compiler lowers oneDNN's operator for frozen weights only, and fails on ours: it sees one of our own instead.
torch.library.define("medfuncta::linear", "(Tensor left, Tensor right, Tensor? row) -> Tensor")
torch.library.impl("medfuncta::linear", "cpu", _linear)
torch.library.register_fake("medfuncta::linear", lambda left, right, row: left.new_empty(left.shape[0], right.shape[1]))


@cache
def onednn_works() -> bool:
    """Whether oneDNN's operator is there and multiplies correctly."""
    left, right, row = torch.arange(12.0).view(4, 3), torch.arange(15.0).view(3, 5), torch.arange(5.0)
    try:
        with torch.no_grad():
            result = _linear(left, right, row)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(result, left @ right + row)
