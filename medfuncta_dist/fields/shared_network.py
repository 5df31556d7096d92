"""The shared network as two files, and back: ``network.safetensors`` (θ) and ``network.json`` (all else).

In three lines, without Ray, DeepSpeed or storage:

    from medfuncta_dist.fields.shared_network import SharedNetwork
    network = SharedNetwork.load("network")
    values = network.decode(latents, (64, 64))      # (scan, channel, *shape), in [0, 1] up to the fit's error

``network.json`` (format_version 1 for a SIREN, 2 for a basis field): kind, spec (architecture with every ω written
out), contract (shape, channels and intensity rule of the data it was trained on), inner (how the inner loop found
latents), dataset_digest, code_version, and weights: {file, size, sha256}. Its own SHA-256 is the network's digest,
which covers θ through ``weights``.

Beside θ, ``network.safetensors`` may hold *extras*: tensors that fitting uses and decoding does not (``EXTRAS``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.errors import FormatVersionError, IntegrityError, MedfunctaError
from medfuncta_dist.fields import field_kinds, safe_tensors
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.coordinates import Region, grid, points_of, region_points
from medfuncta_dist.fields.field_kinds import FieldSpec, field
from medfuncta_dist.fields.network_record import RECORD_FILE, files_below
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec

WEIGHTS_FILE = "network.safetensors"
DESCRIPTION_FILE = "network.json"
VERSIONS = {SirenSpec.KIND: 1, BasisSpec.KIND: 2}
"""Format version by the kind of field: versions that know only SIRENs refuse the other kind by its version."""
RECORD_VERSION = 1
KIND = "shared-network"

EXTRAS: dict[str, tuple[tuple[str, ...], ...]] = {
    "inner.rates": (("latent",), ("step", "latent"), ("step", "layer", "latent")),
    "latent.variances": (("latent",),),
}
"""Names of extras, and the axes that each may have. ``inner.rates``: step sizes of a SIREN's latents, learned in
training. ``latent.variances``: of each of a basis field's numbers over the training scans, in falling order."""

FIELDS = {"spec": object, "contract": dict, "inner": dict, "dataset_digest": str, "code_version": str, "weights": dict}
"""What ``network.json`` holds beside its version and kind."""
LARGEST_DESCRIPTION = 2**20
"""Bytes. It has about a thousand."""

DECODE_POINTS, DECODE_NUMBERS = 8192, 2**21
"""Most points decoded at once, and most numbers of a basis field's features there: 8 MB, whatever the resolution."""


@dataclass(frozen=True)
class SharedNetwork:
    """A meta-learned network with what is needed to fit and decode with it. Tensors are float32 on the CPU."""

    spec: FieldSpec
    params: Params
    contract: dict[str, Any]
    inner: dict[str, Any]
    dataset_digest: str
    code_version: str
    extras: Params = dataclasses.field(default_factory=dict)
    """What fitting uses beside θ, by the names in ``EXTRAS``; empty for a network that has none."""

    def to_files(self) -> dict[str, bytes]:
        """File name → content. Equal networks give equal bytes."""
        weights = self._weights
        return {WEIGHTS_FILE: weights, DESCRIPTION_FILE: _describe(self, weights)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``network.json``."""
        return hashlib.sha256(_describe(self, self._weights)).hexdigest()

    @classmethod
    def from_files(cls, weights: bytes, description: bytes) -> SharedNetwork:
        """The inverse of ``to_files``.

        Raises FormatVersionError for another format version, IntegrityError when the two files do not belong together
        or a tensor is missing, superfluous, or of another shape or type than the architecture says.
        """
        parsed = _parse(description)
        _check_weights(weights, parsed["weights"])
        spec = _spec(parsed["spec"])
        if parsed["format_version"] != VERSIONS[spec.KIND]:
            raise _damaged(f"{DESCRIPTION_FILE} has a {spec.KIND} field, which its format_version does not allow")
        tensors = _load_tensors(weights)
        extras = {name: tensors.pop(name) for name in EXTRAS if name in tensors}
        _check_tensors(spec, tensors)
        _check_extras(spec, extras)
        return cls(
            spec, tensors, parsed["contract"], parsed["inner"], parsed["dataset_digest"], parsed["code_version"], extras
        )

    @classmethod
    def load(cls, folder: str | Path) -> SharedNetwork:
        """Read both files from a local folder: a run's ``network``, whose commit record is followed, or one of them.

        Raises MedfunctaError where there is no network, IntegrityError where it is not the committed one.
        """
        folder = Path(folder)
        record = _committed(folder / RECORD_FILE) if (folder / RECORD_FILE).is_file() else None
        names = [WEIGHTS_FILE, DESCRIPTION_FILE]
        paths = names if record is None else files_below(record, names, str(folder / RECORD_FILE))
        for path in paths:
            if not (folder / path).is_file():
                raise MedfunctaError(
                    f"there is no {path}", where=str(folder), do="give a folder that holds both files of a network"
                )
        network = cls.from_files(*((folder / path).read_bytes() for path in paths))
        if record is not None and network.digest != record.get("digest"):
            raise _damaged(f"the network is not the one that {RECORD_FILE} names")
        return network

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "batch latent"], shape: Sequence[int], region: Region | None = None
    ) -> Float[Tensor, "batch channel *space"]:
        """Values of each latent on a grid of ``shape``, at any resolution, in chunks of points. Not clamped.

        ``region``: only the grid's points in it, per axis a slice or (start, stop); the result has its size.

        A scan's values depend on its latent, ``shape`` and ``region``, to the bit, and not on what else is decoded with
        it.
        """
        size = shape if region is None else [len(points) for points in region_points(shape, region)]
        return self._values(latents, grid(shape, latents.device, region=region), size)

    @torch.no_grad()
    def decode_at(
        self, latents: Float[Tensor, "batch latent"], axes: Sequence[Float[Tensor, " _"]]
    ) -> Float[Tensor, "batch channel *space"]:
        """The same at the points of a grid with these coordinates along each axis, from -1 to 1."""
        on = [axis.to(latents.device, torch.float32) for axis in axes]
        return self._values(latents, points_of(on), [len(axis) for axis in on])

    def _values(
        self, latents: Float[Tensor, "batch latent"], coordinates: Float[Tensor, "point coord"], size: Sequence[int]
    ) -> Float[Tensor, "batch channel *space"]:
        params = {name: tensor.to(latents.device) for name, tensor in self.params.items()}
        parts = torch.split(coordinates, _points_at_once(self.spec))
        values = torch.cat([field(self.spec, params, part, latents) for part in parts], dim=1)
        return values.transpose(1, 2).reshape(len(latents), self.spec.channels, *size)

    @cached_property
    def _weights(self) -> bytes:
        kept = {name: self.params[name] for name in self.spec.shapes()} | self.extras
        kept = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in kept.items()}
        return safetensors.torch.save({name: tensor.contiguous() for name, tensor in kept.items()})


def _points_at_once(spec: FieldSpec) -> int:
    """How many points are decoded at once. It decides the last bits: a SIREN's are as earlier versions decoded it."""
    if isinstance(spec, SirenSpec):
        return DECODE_POINTS
    return max(1, min(DECODE_POINTS, DECODE_NUMBERS // spec.widest))


def _committed(path: Path) -> dict[str, Any]:
    """The body of a network's commit record. The network's own digest proves it."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{RECORD_FILE} is not JSON") from error
    if not isinstance(record, dict) or record.get("kind") != "network" or not isinstance(record.get("body"), dict):
        raise _damaged(f"{RECORD_FILE} is not the commit record of a network")
    if record.get("format_version") != RECORD_VERSION:
        raise FormatVersionError(
            f"{RECORD_FILE} has format_version {record.get('format_version')!r}, this version reads {RECORD_VERSION}",
            where=str(path),
            do="read it with the version of medfuncta-dist that wrote it, or a newer one",
        )
    body: dict[str, Any] = record["body"]
    return body


def _describe(network: SharedNetwork, weights: bytes) -> bytes:
    body = {
        "format_version": VERSIONS[network.spec.KIND],
        "kind": KIND,
        "spec": field_kinds.describe(network.spec),
        "contract": network.contract,
        "inner": network.inner,
        "dataset_digest": network.dataset_digest,
        "code_version": network.code_version,
        "weights": {"file": WEIGHTS_FILE, "size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()},
    }
    return json.dumps(body, sort_keys=True, indent=2, allow_nan=False).encode()


def _parse(description: bytes) -> dict[str, Any]:
    if len(description) > LARGEST_DESCRIPTION:
        raise _damaged(f"{DESCRIPTION_FILE} is larger than {LARGEST_DESCRIPTION} bytes")
    try:
        parsed = json.loads(description)
        json.dumps(parsed, allow_nan=False).encode()  # NaN and infinities are not JSON, though Python parses them
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{DESCRIPTION_FILE} is not JSON") from error
    if not isinstance(parsed, dict) or parsed.get("kind") != KIND:
        raise _damaged(f"{DESCRIPTION_FILE} does not describe a shared network")
    version = parsed.get("format_version")
    if type(version) is not int or version not in VERSIONS.values():
        known = " and ".join(str(one) for one in sorted(VERSIONS.values()))
        raise FormatVersionError(
            f"{DESCRIPTION_FILE} has format_version {version!r}, this version reads {known}",
            do="read it with the version of medfuncta-dist that wrote it, or a newer one",
        )
    missing = FIELDS.keys() - parsed.keys()
    if missing:
        raise _damaged(f"{DESCRIPTION_FILE} lacks {', '.join(sorted(missing))}")
    if wrong := [name for name, kind in FIELDS.items() if not isinstance(parsed[name], kind)]:
        raise _damaged(f"{DESCRIPTION_FILE} has no valid {wrong[0]}")
    return parsed


def _check_weights(weights: bytes, parsed: dict[str, Any]) -> None:
    if parsed.get("sha256") != hashlib.sha256(weights).hexdigest():
        raise _damaged(f"{WEIGHTS_FILE} is not the file that {DESCRIPTION_FILE} names: its SHA-256 differs")


def _spec(parsed: Any) -> FieldSpec:
    try:
        return field_kinds.parse(parsed)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError, MedfunctaError) as error:
        raise _damaged(f"{DESCRIPTION_FILE} holds no valid architecture") from error


def _load_tensors(weights: bytes) -> Params:
    try:
        return safe_tensors.load(weights)[1]
    except ValueError as error:
        raise _damaged(f"{WEIGHTS_FILE} is not a safetensors file") from error


def _check_tensors(spec: FieldSpec, params: Params) -> None:
    shapes = spec.shapes()
    if params.keys() != shapes.keys():
        names = ", ".join(sorted(params.keys() ^ shapes.keys()))
        raise _damaged(f"{WEIGHTS_FILE} and the architecture differ in the tensors {names}")
    for name, shape in shapes.items():
        tensor = params[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise _damaged(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected torch.float32 {shape}")


def _check_extras(spec: FieldSpec, extras: Params) -> None:
    """Check axes against the sizes that their names fix; axes of the same name must have the same size."""
    sizes = {"latent": spec.latent} | ({"layer": len(spec.modulated_layers)} if isinstance(spec, SirenSpec) else {})
    for name, tensor in extras.items():
        axes = next((axes for axes in EXTRAS[name] if len(axes) == tensor.ndim), ())
        fits = bool(axes) and all(
            sizes.setdefault(axis, n) == n for axis, n in zip(axes, tensor.shape, strict=True) if axis != "step"
        )
        if not fits or tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            raise _damaged(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected finite torch.float32 numbers over the axes "
                f"{' or '.join('(' + ', '.join(one) + ')' for one in EXTRAS[name])} of a latent size of {spec.latent}"
            )


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(what, do="restore both files of the network from the run that trained it")
