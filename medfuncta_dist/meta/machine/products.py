"""Matrix products at the machine's speed, as a run's arithmetic says: the one place that multiplies whole activations.

In float32 on a CPU oneDNN is asked directly (``onednn.py``); on a GPU the precision decides (``precision.py``). What is
multiplied elsewhere (latents with modulation maps, factors) is small, and float32 throughout.

``parts``: of a right-hand matrix that is used again and again (``parts_for``), so that it is split only once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.onednn import onednn_product
from medfuncta_dist.meta.machine.precision import left_parts, right_parts, rounded, tensor_cores

LEAST_DIRECT_SUM = 128
"""Smallest sides of a sum over many points that oneDNN is asked for: below, transposing costs more than it wins."""


def product(
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
    parts: Float[Tensor, "parts column"] | None = None,
) -> Float[Tensor, "row column"]:
    """left · right."""
    if _direct(left, by):
        return onednn_product(left, right)
    if _exact(left, by):
        return left @ right
    return _on_tensor_cores(None, left, right, by, parts)


def product_plus_row(
    row: Float[Tensor, " column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
    parts: Float[Tensor, "parts column"] | None = None,
) -> Float[Tensor, "row column"]:
    """left · right, plus the same row everywhere."""
    if _direct(left, by):
        return onednn_product(left, right, row)
    if _exact(left, by):
        return torch.addmm(row, left, right)
    return _on_tensor_cores(row, left, right, by, parts)


def product_plus(
    base: Float[Tensor, "row column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
    parts: Float[Tensor, "parts column"] | None = None,
) -> Float[Tensor, "row column"]:
    """base + left · right."""
    if _direct(left, by):
        return onednn_product(left, right).add_(base)
    if _exact(left, by):
        return torch.addmm(base, left, right)
    return _on_tensor_cores(base, left, right, by, parts)


def add_product(
    total: Float[Tensor, "row column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
) -> None:
    """total += left · right."""
    if min(total.shape) >= LEAST_DIRECT_SUM and _direct(left, by):
        total += onednn_product(left, right)
    elif _exact(left, by):
        total.addmm_(left, right)
    else:
        total += _on_tensor_cores(None, left, right, by, None)


def _direct(left: Tensor, by: Arithmetic) -> bool:
    return by.products == "onednn" and left.dtype == torch.float32 and left.numel() > 0


def _exact(left: Tensor, by: Arithmetic) -> bool:
    return by.precision == "fp32" or left.dtype != torch.float32


def parts_for(right: Float[Tensor, "inner column"], by: Arithmetic) -> Float[Tensor, "parts column"] | None:
    """What products of this arithmetic multiply with in the place of ``right``; None for ``right`` itself."""
    return right_parts(right) if by.precision == "tf32x3" and not _exact(right, by) else None


def _on_tensor_cores(base: Tensor | None, left: Tensor, right: Tensor, by: Arithmetic, parts: Tensor | None) -> Tensor:
    if by.precision == "tf32x3":
        left, right = left_parts(left), right_parts(right) if parts is None else parts
    if left.device.type == "cpu":
        left, right = rounded(left), rounded(right)
    if torch.compiler.is_compiling():  # whoever runs what is compiled has let torch use them
        return _multiplied(base, left, right)
    with tensor_cores(left.device):
        return _multiplied(base, left, right)


def _multiplied(base: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    return left @ right if base is None else torch.addmm(base, left, right)
