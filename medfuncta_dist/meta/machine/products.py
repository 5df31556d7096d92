"""Matrix products at the machine's speed, as a run's arithmetic says: the one place that multiplies whole activations.

In float32 on a CPU oneDNN is asked directly (``onednn.py``); on a GPU the precision decides (``precision.py``). What is
multiplied elsewhere (latents with modulation maps, factors) is small, and float32 throughout.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.onednn import onednn_product
from medfuncta_dist.meta.machine.precision import rounded, tensor_cores, three_passes

LEAST_DIRECT_SUM = 128
"""Smallest sides of a sum over many points that oneDNN is asked for: below, transposing costs more than it wins."""


def product(
    left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"], by: Arithmetic
) -> Float[Tensor, "row column"]:
    """left · right."""
    if _direct(left, by):
        return onednn_product(left, right)
    if _exact(left, by):
        return left @ right
    return _on_tensor_cores(None, left, right, by)


def product_plus_row(
    row: Float[Tensor, " column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
) -> Float[Tensor, "row column"]:
    """left · right, plus the same row everywhere."""
    if _direct(left, by):
        return onednn_product(left, right, row)
    if _exact(left, by):
        return torch.addmm(row, left, right)
    return _on_tensor_cores(row, left, right, by)


def product_plus(
    base: Float[Tensor, "row column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
) -> Float[Tensor, "row column"]:
    """base + left · right."""
    if _direct(left, by):
        return onednn_product(left, right).add_(base)
    if _exact(left, by):
        return torch.addmm(base, left, right)
    return _on_tensor_cores(base, left, right, by)


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
        total += _on_tensor_cores(None, left, right, by)


def _direct(left: Tensor, by: Arithmetic) -> bool:
    return by.products == "onednn" and left.dtype == torch.float32 and left.numel() > 0


def _exact(left: Tensor, by: Arithmetic) -> bool:
    return by.precision == "fp32" or left.dtype != torch.float32


def _on_tensor_cores(base: Tensor | None, left: Tensor, right: Tensor, by: Arithmetic) -> Tensor:
    if by.precision == "tf32x3":
        left, right = three_passes(left, right)
    if left.device.type == "cpu":
        left, right = rounded(left), rounded(right)
    if torch.compiler.is_compiling():  # whoever runs what is compiled has let torch use them
        return _multiplied(base, left, right)
    with tensor_cores(left.device):
        return _multiplied(base, left, right)


def _multiplied(base: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    return left @ right if base is None else torch.addmm(base, left, right)
