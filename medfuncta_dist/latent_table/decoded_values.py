"""Latents to values, in groups of scans that fit into memory, on the CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.coordinates import Region, region_points
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.meta.device import require_device
from medfuncta_dist.scans.scan import MAX_VALUES

GROUP_VALUES = 2**24
"""Values that are decoded at a time: 64 MB, and as much again while they are put in order."""


def decode_latents(
    network: SharedNetwork,
    latents: Float[np.ndarray, "scan latent"],
    shape: Sequence[int],
    region: Region | None = None,
    device: str = "cpu",
) -> Float[np.ndarray, "scan channel *space"]:
    """Values in [0, 1], float32, of each latent at a grid of ``shape``, or at the points of a region of it.

    RunFileError for a shape or a region that does not fit the network, and for too many values.
    """
    size = _size(network, shape, region)
    values_each = network.spec.channels * math.prod(size)
    if values_each * max(1, len(latents)) > MAX_VALUES:
        what = f"{len(latents)} scans of shape {list(size)} have more than {MAX_VALUES} values"
        raise RunFileError(what, where="shape", do="decode fewer scans at a time, a smaller shape, or a region of it")
    on = require_device(torch.device(device))
    found = np.empty((len(latents), network.spec.channels, *size), np.float32)
    group = max(1, GROUP_VALUES // values_each)
    for start in range(0, len(latents), group):
        some = torch.from_numpy(np.ascontiguousarray(latents[start : start + group])).to(on)
        found[start : start + group] = network.decode(some, shape, region).clamp(0, 1).cpu().numpy()
    return found


def _size(network: SharedNetwork, shape: Sequence[int], region: Region | None) -> tuple[int, ...]:
    if len(shape) != network.spec.coords or min(shape) < 2:
        what = f"a scan of {network.spec.coords} axes cannot be decoded at {list(shape)}"
        raise RunFileError(what, where="shape", do=f"give {network.spec.coords} numbers of at least 2")
    return tuple(shape) if region is None else tuple(len(points) for points in region_points(shape, region))
