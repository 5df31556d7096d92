"""Matrix products at the machine's speed.

In float32 on a CPU oneDNN is asked directly: torch's own matmul goes through MKL, which on AMD processors leaves
AVX-512 unused (measured on an EPYC core, 1024 x 256 by 256 x 256: 98 GFLOP/s, against 215). The operator that does it
belongs to torch's compiler and may go away, so it is tried once; everywhere else, and without it, torch's matmul is
used.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_DIRECT_SUM = 128
"""Smallest sides of a sum over many points that oneDNN is asked for: below, transposing costs more than it wins."""


def product(left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"]) -> Float[Tensor, "row column"]:
    """left · right."""
    if _direct(left):
        return _onednn_product(left, right)
    return left @ right


def product_plus_row(
    row: Float[Tensor, " column"], left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"]
) -> Float[Tensor, "row column"]:
    """left · right, plus the same row everywhere."""
    if _direct(left):
        return _onednn_product(left, right, row)
    return torch.addmm(row, left, right)


def product_plus(
    base: Float[Tensor, "row column"], left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"]
) -> Float[Tensor, "row column"]:
    """base + left · right."""
    if _direct(left):
        return _onednn_product(left, right).add_(base)
    return torch.addmm(base, left, right)


def add_product(
    total: Float[Tensor, "row column"], left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"]
) -> None:
    """total += left · right."""
    if min(total.shape) >= LEAST_DIRECT_SUM and _direct(left):
        total += product(left, right)
    else:
        total.addmm_(left, right)


def backend(device: torch.device, dtype: torch.dtype) -> str:
    """Name of the library that multiplies: part of what decides the last bits, so a run records it."""
    return "onednn" if device.type == "cpu" and dtype == torch.float32 and _onednn() else "torch"


def _direct(left: Tensor) -> bool:
    return left.dtype == torch.float32 and left.device.type == "cpu" and left.numel() > 0 and _onednn()


def _onednn_product(left: Tensor, right: Tensor, row: Tensor | None = None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.T, row, "none", [], "")
    return result


@cache
def _onednn() -> bool:
    """Whether the operator is there and multiplies correctly."""
    left, right, row = torch.arange(12.0).view(4, 3), torch.arange(15.0).view(3, 5), torch.arange(5.0)
    try:
        with torch.no_grad():
            result = _onednn_product(left, right, row)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(result, left @ right + row)
