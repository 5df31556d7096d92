"""The kinds of field, and what one asks of either: parameters to start from, and values. Nobody else asks which it is.

``siren``: as published, a latent shifts the phases of sine layers. ``basis``: a latent weights shared functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from medfuncta_dist.fields import basis, siren
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec

GPU_SCANS, GPU_NUMBERS = 32, 2**25
"""Most scans that a GPU computes at once, and most numbers of one layer's activations then: 128 MB, for 32 scans of
64 x 64 points at L = 256. One scan alone may be less work than the launch of its kernels. Not measured on a GPU yet."""

FieldSpec = SirenSpec | BasisSpec
KINDS: Mapping[str, type[SirenSpec] | type[BasisSpec]] = {kind.KIND: kind for kind in (SirenSpec, BasisSpec)}


def init_params(spec: FieldSpec, generator: torch.Generator) -> Params:
    """Draw θ (float32, on the CPU): the same generator state gives the same θ on every machine and rank."""
    if isinstance(spec, BasisSpec):
        return basis.init_params(spec, generator)
    return siren.init_params(spec, generator)


def field(
    spec: FieldSpec,
    params: Params,
    coordinates: Float[Tensor, "point coord"],
    latents: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch point channel"]:
    """Values of each latent's field at the coordinates. No scan's values depend on another scan of the batch."""
    if isinstance(spec, BasisSpec):
        return basis.field(spec, params, coordinates, latents)
    # On a CPU scan by scan: each scan's activations are as large as its points, and stay in cache only alone.
    few = max(1, min(GPU_SCANS, GPU_NUMBERS // (len(coordinates) * spec.hidden))) if latents.is_cuda else 1
    return in_groups(lambda group: siren.field(spec, params, coordinates, group), latents, few)


def in_groups(
    values: Callable[[Float[Tensor, "group latent"]], Float[Tensor, "group point channel"]],
    latents: Float[Tensor, "batch latent"],
    size: int,
) -> Float[Tensor, "batch point channel"]:
    """Values of each latent, ``size`` at a time. Groups are of one size, the last one filled up: a product's bits may
    depend on its size, and a scan's values must not depend on how many there are."""
    groups = [values(pad(group, (0, 0, 0, size - len(group)))) for group in torch.split(latents, size)]
    return torch.cat(groups)[: len(latents)]


def describe(spec: FieldSpec) -> dict[str, Any]:
    """As JSON holds it. A SIREN's has no kind, as before there were others."""
    return asdict(spec) | ({} if isinstance(spec, SirenSpec) else {"kind": spec.KIND})


def parse(described: Mapping[str, Any]) -> FieldSpec:
    """The inverse of ``describe``. TypeError, ValueError or a RunFileError for what describes no field."""
    values = dict(described)
    kind = KINDS.get(values.pop("kind", SirenSpec.KIND))
    if kind is None:
        raise ValueError("another kind of field")
    for name, expected in kind.__annotations__.items():
        if expected in ("int", "bool") and type(values.get(name)).__name__ != expected:
            raise TypeError(name)
    return kind(**{**values, "omegas": tuple(float(w) for w in values["omegas"])})
