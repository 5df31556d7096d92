"""Matrix products at the machine's speed.

In float32 on a CPU oneDNN is asked directly: torch's own matmul goes through MKL, which on AMD processors leaves
AVX-512 unused (measured on an EPYC core, 1024 x 256 by 256 x 256: 98 GFLOP/s, against 215). The operator that does it
belongs to torch's compiler and may go away, so it is tried once; everywhere else, and without it, torch's matmul is
used. Which one is a run's own choice (``arithmetic.py``): it decides the last bits.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Products = Literal["onednn", "torch"]

LEAST_DIRECT_SUM = 128
"""Smallest sides of a sum over many points that oneDNN is asked for: below, transposing costs more than it wins."""


def product(
    left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"], by: Products
) -> Float[Tensor, "row column"]:
    """left · right."""
    if _direct(left, by):
        return _onednn_product(left, right)
    return left @ right


def product_plus_row(
    row: Float[Tensor, " column"], left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"], by: Products
) -> Float[Tensor, "row column"]:
    """left · right, plus the same row everywhere."""
    if _direct(left, by):
        return _onednn_product(left, right, row)
    return torch.addmm(row, left, right)


def product_plus(
    base: Float[Tensor, "row column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Products,
) -> Float[Tensor, "row column"]:
    """base + left · right."""
    if _direct(left, by):
        return _onednn_product(left, right).add_(base)
    return torch.addmm(base, left, right)


def add_product(
    total: Float[Tensor, "row column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Products,
) -> None:
    """total += left · right."""
    if min(total.shape) >= LEAST_DIRECT_SUM and _direct(left, by):
        total += product(left, right, by)
    else:
        total.addmm_(left, right)


def _direct(left: Tensor, by: Products) -> bool:
    return by == "onednn" and left.dtype == torch.float32 and left.numel() > 0


def _onednn_product(left: Tensor, right: Tensor, row: Tensor | None = None) -> Tensor:
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
