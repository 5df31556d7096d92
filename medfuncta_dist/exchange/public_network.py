"""The public code's shared network and ours: the same tensors under other names. Pure.

    ours                        public (``models/inrs.py``), behind ``model.`` in what the training writes
    layer.k        k = 1…K-1    layers.{k-1}.linear
    modulation.k                layers.{k-1}.modulate_shift_layer
    layer.K                     last_layer.linear
    (none)                      last_layer.modulate_shift_layer, which it never uses
    (none)                      grid, the coordinates at one resolution

All its sine layers are modulated, the first one too. A state dict tells neither ω nor whether there are skip
connections (our ``residual``); both are options of its command line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from typing import Any

import torch
from torch import Tensor

from medfuncta_dist.exchange.public_modules import Module
from medfuncta_dist.exchange.torch_file import RefusedFileError, shown
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import FieldSpec
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec

WRAPPER, GRID = "model.", "grid"
LINEAR, SHIFT, SCALE = "linear", "modulate_shift_layer", "modulate_scale_layer"
LAST = "last_layer"
_LAYER = re.compile(r"layers\.(0|[1-9]\d{0,3})\.linear\.weight")
EVENLY = 1e-9
"""Relative: how far ω may be from evenly spaced to be written as a first one and an increment."""


@dataclass(frozen=True)
class PublicNetwork:
    """What a file of the public code holds: parameters without the wrapper's prefix, and what it tells beside them."""

    tensors: Mapping[str, Tensor]
    omegas: tuple[float, ...] | None = None
    """Of the K-1 sine layers, where the file tells them."""
    residual: bool | None = None

    @property
    def layers(self) -> int:
        """K, the last layer included."""
        return 1 + sum(_LAYER.fullmatch(name) is not None for name in self.tensors)


@dataclass(frozen=True)
class Schedule:
    """The public code's ω: ``w0`` in the first layer, ``increment`` more in each further one."""

    w0: float
    increment: float
    residual: bool = field(default=True)

    def omegas(self, layers: int) -> tuple[float, ...]:
        """Of the K-1 sine layers, added up one by one as the public code does."""
        return tuple(accumulate(repeat(float(self.increment), layers - 2), initial=float(self.w0)))


def parse(loaded: Any) -> PublicNetwork:
    """What torch_file.load gave, as a network. RefusedFileError for anything else."""
    if isinstance(loaded, Module):
        return _of_module(loaded)
    if not isinstance(loaded, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in loaded.items()):
        raise RefusedFileError("it is neither a state dict nor a module of the public code")
    names = [name for name in loaded if name != GRID]
    prefix = WRAPPER if all(name.startswith(WRAPPER) for name in names) else ""
    return PublicNetwork({name.removeprefix(prefix): loaded[name].detach() for name in names})


def _of_module(module: Module) -> PublicNetwork:
    omegas = tuple(layer.number("w0") for layer in module.child("layers").children)
    return PublicNetwork(dict(module.tensors()), omegas, bool(module.number("enable_skip_connections")))


def spec_of(network: PublicNetwork, omegas: Sequence[float], residual: bool) -> SirenSpec:
    """Its architecture. RefusedFileError where its tensors are not those of one."""
    first = _shaped(network, f"layers.0.{LINEAR}.weight", 2)
    last = _shaped(network, f"{LAST}.{LINEAR}.weight", 2)
    shift = _shaped(network, f"layers.0.{SHIFT}.weight", 2)
    hidden, coords = first.shape
    sizes = {"coords": coords, "channels": last.shape[0], "hidden": hidden, "latent": shift.shape[1]}
    if network.layers < 3 or coords > 3 or not all(sizes.values()):
        raise RefusedFileError(
            f"it has {network.layers} layers and {coords} coordinates: at least 3, and 1 to 3, are read"
        )
    return SirenSpec(layers=network.layers, omegas=tuple(omegas), residual=residual, modulate_first=True, **sizes)


def _shaped(network: PublicNetwork, name: str, axes: int) -> Tensor:
    tensor = network.tensors.get(name)
    if tensor is None or tensor.ndim != axes:
        raise RefusedFileError(f"it has no {name} of {axes} axes: it is no network of the public code")
    return tensor


def to_ours(network: PublicNetwork, spec: SirenSpec) -> Params:
    """θ of this architecture. RefusedFileError names a tensor that is missing, unknown, or of another shape or type."""
    if scales := [name for name in network.tensors if SCALE in name]:
        raise RefusedFileError(
            f"its latents also scale the layers ({shown(scales[0])}): only those that shift them are read"
        )
    ours = _names(spec)
    unused = {f"{LAST}.{SHIFT}.weight", f"{LAST}.{SHIFT}.bias"}
    if differ := sorted(network.tensors.keys() - unused ^ set(ours.values())):
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        named = ", ".join(map(shown, differ[:3]))
        raise RefusedFileError(f"its tensors are not those of {spec.layers} layers: {named}{more}")
    return {name: _checked(network.tensors[ours[name]], ours[name], shape) for name, shape in spec.shapes().items()}


def _checked(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
        raise RefusedFileError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected torch.float32 {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise RefusedFileError(f"{name} has numbers that are not finite")
    return tensor.clone()


def _names(spec: SirenSpec) -> dict[str, str]:
    """Our name of each tensor → the public one."""
    named = {}
    for name in spec.shapes():
        kind, number, part = name.split(".")
        layer = LAST if int(number) == spec.layers else f"layers.{int(number) - 1}"
        named[name] = f"{layer}.{LINEAR if kind == 'layer' else SHIFT}.{part}"
    return named


def schedule_of(spec: FieldSpec) -> Schedule:
    """How the public code would be told this architecture. RefusedFileError says what it cannot express."""
    if not isinstance(spec, SirenSpec):
        raise RefusedFileError(f"the public code has no fields of kind {spec.KIND}, only of kind siren")
    w0, increment = spec.omegas[0], (spec.omegas[-1] - spec.omegas[0]) / (len(spec.omegas) - 1)
    even = Schedule(w0, increment, spec.residual)
    if not all(math.isclose(a, b, rel_tol=EVENLY) for a, b in zip(even.omegas(spec.layers), spec.omegas, strict=True)):
        raise RefusedFileError("its ω are not evenly spaced, and the public code knows a first ω and an increment only")
    return even


def to_public(spec: SirenSpec, params: Params, shape: Sequence[int]) -> dict[str, Tensor]:
    """A state dict that the public code loads for scans of this shape.

    Layers that our latent does not shift, and the last one's head, which the public code does not use, get zeros.
    """
    names = {ours: f"{WRAPPER}{public}" for ours, public in _names(spec).items()}
    state = {names[name]: tensor.detach().to("cpu", torch.float32).clone() for name, tensor in params.items()}
    for layer in ("layers.0", LAST):
        width = spec.channels if layer == LAST else spec.hidden
        state.setdefault(f"{WRAPPER}{layer}.{SHIFT}.weight", torch.zeros(width, spec.latent))
        state.setdefault(f"{WRAPPER}{layer}.{SHIFT}.bias", torch.zeros(width))
    return {GRID: grid(shape).clone(), **state}
