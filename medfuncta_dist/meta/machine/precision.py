"""How exactly a GPU multiplies float32 matrices: in float32, or on tensor cores, which see 11 bits of each number.

``fp32``: all 24 bits, on the ordinary units. ``tf32``: one pass over tensor cores. ``tf32x3``: three passes. Each
number is split into a high part of 11 bits and the rest, x = h + l, and xy ≈ hh' + hl' + lh': what is left out, ll' and
the bits of l beyond its eleventh, is about 2⁻²² of the product.

A CPU has no such units. There products are float32, unless a network is asked for another precision on purpose
(``Arithmetic.require`` never does): then operands are rounded as tensor cores would, to study what that costs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError

Precision = Literal["fp32", "tf32", "tf32x3"]

DROPPED_BITS = 13
"""Of float32's 24 significant bits; TF32 keeps the others."""
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
"""Variables by which an environment changes how all programs multiply."""


def rounded(values: Tensor) -> Tensor:
    """Float32 values to the nearest that TF32 has, halves away from zero. Infinities stay, and NaN but for two of
    their many forms: in three passes the rest of a number keeps these."""
    bits = values.view(torch.int32)
    half, kept = 1 << (DROPPED_BITS - 1), -(1 << DROPPED_BITS)
    return ((bits + half) & kept).view(torch.float32)


def left_parts(left: Tensor) -> Tensor:
    """[row, inner] → [row, 3 inner]: l, h, h. Its TF32 product with ``right_parts`` of another matrix is the float32
    product of the two to about 2⁻²²: all three passes in one, the small terms first."""
    high = rounded(left)
    return torch.cat((left - high, high, high), 1)


def right_parts(right: Tensor) -> Tensor:
    """[inner, column] → [3 inner, column]: h', l', h'."""
    high = rounded(right)
    return torch.cat((high, right - high, high), 0)


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Let torch multiply float32 matrices in TF32 on this device while the block runs, and only then."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = False


def settle_default(device: torch.device) -> None:
    """Make float32 mean float32 in this process, whatever an earlier import has set; ``tensor_cores`` is the exception.

    MedfunctaError where the environment decides over torch's head.
    """
    if device.type != "cuda":
        return
    found = [f"{name}={os.environ[name]}" for name in OVERRIDES if name in os.environ]
    if found:
        raise MedfunctaError(
            f"the environment changes how every program here multiplies matrices ({', '.join(found)})",
            where="the worker's environment variables",
            do="remove the variable, and choose with meta.precision in the run file: it is kept with the results",
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    assert not torch.backends.cuda.matmul.allow_tf32, "torch multiplies in TF32 although it was told not to"
