"""Matrix products at the machine's speed, as a run's arithmetic says: the one place that multiplies whole activations.

In float32 on a CPU oneDNN is asked directly (``onednn.py``); on a GPU the precision decides (``precision.py``), and
who multiplies on tensor cores: torch, or our kernels (``gpu_kernels.py``). What is multiplied elsewhere (latents with
modulation maps, factors) is small, and float32 throughout.

``parts``: of a right-hand matrix that is used again and again (``parts_for``), so that it is split only once.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.onednn import onednn_product
from medfuncta_dist.meta.machine.precision import left_parts, right_parts, rounded, tensor_cores

LEAST_TILED = 16
"""Smallest sides of a matrix that our GPU kernels multiply with: thinner ones are float32, and cost next to nothing."""
LEAST_DIRECT_SUM = 128
"""Smallest sides of a sum over many points that oneDNN is asked for: below, transposing costs more than it wins."""


def product(
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
    parts: Tensor | None = None,
) -> Float[Tensor, "row column"]:
    """left · right."""
    if _direct(left, by):
        return onednn_product(left, right)
    if tiled(left, right, by):
        return gpu_product(left, right, by, parts)
    if _exact(left, by) or _thin(right, by):
        return left @ right
    return _on_tensor_cores(None, left, right, by, parts)


def product_plus_row(
    row: Float[Tensor, " column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
    parts: Tensor | None = None,
) -> Float[Tensor, "row column"]:
    """left · right, plus the same row everywhere."""
    if _direct(left, by):
        return onednn_product(left, right, row)
    if tiled(left, right, by):
        return gpu_product(left, right, by, parts, shifts=row[None])
    if _exact(left, by) or _thin(right, by):
        return torch.addmm(row, left, right)
    return _on_tensor_cores(row, left, right, by, parts)


def product_plus(
    base: Float[Tensor, "row column"],
    left: Float[Tensor, "row inner"],
    right: Float[Tensor, "inner column"],
    by: Arithmetic,
    parts: Tensor | None = None,
) -> Float[Tensor, "row column"]:
    """base + left · right."""
    if _direct(left, by):
        return onednn_product(left, right).add_(base)
    if tiled(left, right, by):
        return gpu_product(left, right, by, parts, base=base)
    if _exact(left, by) or _thin(right, by):
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
    elif _exact(left, by) or (by.products == "triton" and by.precision == "tf32x3"):
        total.addmm_(left, right)  # splitting operands whose rows are summed over costs more than float32 does
    elif fused(left, by):
        with tensor_cores(left.device):
            total.addmm_(left, right)
    else:
        total += _on_tensor_cores(None, left, right, by, None)


def _direct(left: Tensor, by: Arithmetic) -> bool:
    return by.products == "onednn" and left.dtype == torch.float32 and left.numel() > 0


def tiled(left: Tensor, right: Tensor, by: Arithmetic) -> bool:
    """Whether our GPU kernels multiply these."""
    return fused(left, by) and min(right.shape) >= LEAST_TILED


def fused(values: Tensor, by: Arithmetic) -> bool:
    """Whether our GPU kernels compute with these."""
    return by.products == "triton" and not _exact(values, by)


def _thin(right: Tensor, by: Arithmetic) -> bool:
    """Whether our GPU kernels leave a product to float32."""
    return by.products == "triton" and min(right.shape) < LEAST_TILED


def passes(by: Arithmetic) -> int:
    """Over tensor cores, of a product."""
    return 3 if by.precision == "tf32x3" else 1


def gpu_product(
    left: Tensor, right: Tensor, by: Arithmetic, parts: Tensor | None, **added: Tensor
) -> Float[Tensor, "row column"]:
    """left · right by our kernel, plus what is given."""
    kernels = gpu_kernels()
    out: Tensor
    out, _ = kernels.product(left, kernels.kept_parts(right) if parts is None else parts, passes(by), **added)
    return out


def gpu_kernels() -> ModuleType:
    """``gpu_kernels.py``, imported when it is first needed: only GPU builds of torch bring triton."""
    return import_module("medfuncta_dist.meta.machine.gpu_kernels")


def _exact(left: Tensor, by: Arithmetic) -> bool:
    return by.precision == "fp32" or left.dtype != torch.float32


def parts_for(right: Float[Tensor, "inner column"], by: Arithmetic) -> Tensor | None:
    """What products of this arithmetic multiply with in the place of ``right``; None for ``right`` itself."""
    if tiled(right, right, by):
        parts: Tensor = gpu_kernels().kept_parts(right)
        return parts
    if by.precision != "tf32x3" or _exact(right, by) or _thin(right, by):
        return None
    return right_parts(right)


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
