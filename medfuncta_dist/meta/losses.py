"""Losses and PSNR, one number a scan: scans of a batch never mix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.point_weights import counted, relative, times

PSNR_CAP = 100.0
"""dB; what a reconstruction without any error is given, so that means stay finite."""


def mse(
    values: Float[Tensor, "batch point channel"],
    targets: Float[Tensor, "batch point channel"],
    weights: Float[Tensor, "batch point"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean squared error of each scan, over its points and channels; with ``weights``, its points' weighted mean.

    0 for a scan without any weight; targets at points of weight 0 may be anything.
    """
    if weights is None:
        return (values - targets).square().mean(dim=(1, 2))
    return times((values - counted(targets, weights)).square(), relative(weights)).mean(dim=(1, 2))


def psnr_of_mse(error: Float[Tensor, "*kind batch"]) -> Float[Tensor, "*kind batch"]:
    """−10·log₁₀(MSE) in dB at data range 1, at most ``PSNR_CAP``. NaN stays NaN."""
    return (-10 * torch.log10(error)).clamp(max=PSNR_CAP)


def psnr(
    values: Float[Tensor, "batch point channel"], targets: Float[Tensor, "batch point channel"]
) -> Float[Tensor, " batch"]:
    """PSNR of each scan in dB: values are clamped to [0, 1], the range that targets have."""
    return psnr_of_mse(mse(values.clamp(0, 1), targets))
