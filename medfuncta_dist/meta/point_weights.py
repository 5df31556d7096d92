"""How much each point of a scan counts: a mask, a region of interest, the window of an overlap (docs/method.md, 1).

Weights are not negative; None stands for all points alike. Everything here is a function of tensors that reads no value
on the host, so that a step which uses it can be recorded as a CUDA graph.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def relative(weights: Float[Tensor, "batch point"]) -> Float[Tensor, "batch point"]:
    """Each scan's weights over their mean, so that sums over points go on being divided by the number of points.

    A scan without any weight keeps zeros. One with a weight that is negative or not finite gets NaN everywhere: what is
    computed of it is then not finite, which whoever computes it checks.
    """
    largest = weights.amax(1, keepdim=True)
    shares = weights / torch.where(largest > 0, largest, 1)  # first: a sum of large weights may overflow
    mean = shares.mean(1, keepdim=True)
    valid = (torch.isfinite(weights) & (weights >= 0)).all(1, keepdim=True)
    return torch.where(valid, shares / torch.where(mean > 0, mean, 1), torch.nan)


def counted(
    targets: Float[Tensor, "batch point channel"], weights: Float[Tensor, "batch point"]
) -> Float[Tensor, "batch point channel"]:
    """The targets with zeros where they do not count: no weight of 0 undoes a value that is not finite."""
    return targets.masked_fill((weights == 0)[..., None], 0)


def has_weight(weights: Float[Tensor, "batch point"]) -> Bool[Tensor, " batch"]:
    """Whether any of a scan's points counts. True where one is not a number: that must not pass for an empty mask."""
    return (weights != 0).any(1)


def times(
    values: Float[Tensor, "batch point channel"], weights: Float[Tensor, "batch point"] | None
) -> Float[Tensor, "batch point channel"]:
    """All channels of a point times its weight; the values themselves where all points count alike."""
    return values if weights is None else values * weights[..., None]
