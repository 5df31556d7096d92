"""Our fields, as the other transforms are asked: a block is a scan, trained and fitted by the product's own code."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.field_methods import Learned, trained
from benchmarks.preset_scans import as_scans
from benchmarks.rate.blocks import spread
from benchmarks.rate.transforms import Blocks, Coefficients
from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields import siren
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params

CURVED_LATENTS = 12
"""Training blocks whose curvature is averaged."""
CURVED_POINTS = 512


class FieldTransform:
    """A network of either kind, and latents in coordinates in which errors are those of the blocks.

    A basis field's functions are orthonormal already. A SIREN's are not: its latents are multiplied by a root of the
    mean Gauss-Newton matrix, and turned so that they are uncorrelated.

    ``fitted``: training blocks whose latents say how latents are distributed.
    """

    def __init__(self, block: Sequence[int], sections: Mapping[str, Mapping[str, Any]], fitted: int = 1000) -> None:
        self.block, self._run, self.fitted = tuple(block), run_of(block, sections, seed=0), fitted
        self._field: Learned | None = None
        self._fitted: dict[bytes, Tensor] = {}
        self.seconds = 0.0

    @property
    def field(self) -> Learned:
        """The trained network."""
        assert self._field is not None
        return self._field

    @property
    def shared_bytes(self) -> int:
        """The network in float16, and a SIREN's change of coordinates in float32."""
        network = self.field.network
        own = sum(tensor.numel() for tensor in (*network.params.values(), *network.extras.values()))
        changed = 0 if isinstance(network.spec, BasisSpec) else self._back.numel() + len(self._centre)
        return 2 * own + 4 * changed

    def fit(self, blocks: Blocks) -> None:
        """Train, once; then the coordinates of its latents."""
        if self._field is not None:
            return
        scans = as_scans(blocks)
        found, self.seconds = trained(self._run, scans)
        self._field = Learned(found.run, replace(found.network, params=halved(found.network.params)))
        latents = self.latents(blocks[spread(len(blocks), self.fitted)])
        if isinstance(self._field.network.spec, BasisSpec):
            size = latents.shape[1]
            self._centre = torch.zeros(size)
            self._to, self._back = (torch.eye(size) * math.prod(self.block) ** power for power in (0.5, -0.5))
        else:
            self._centre, self._to, self._back = whitened(latents, mean_curvature(self._field, latents))

    def forward(self, blocks: Blocks) -> Coefficients:
        """Fit, and change coordinates."""
        return np.asarray((self.latents(blocks) - self._centre) @ self._to)

    def inverse(self, coefficients: Coefficients) -> Blocks:
        """The field on the block's grid."""
        return self.values(self._centre + torch.from_numpy(coefficients) @ self._back)

    def latents(self, blocks: Blocks) -> Tensor:
        """By the product's fit, in float32; of the same blocks once."""
        name = hashlib.sha256(blocks.tobytes()).digest()
        if name not in self._fitted:
            self._fitted[name] = self.field.encode(as_scans(blocks))
        return self._fitted[name]

    def values(self, latents: Tensor) -> Blocks:
        """Blocks of the first numbers of latents, or of all."""
        return np.asarray(self.field.decode(latents)[..., 0])


def halved(params: Params) -> Params:
    """Numbers as float16 has them: what is shared is what is used."""
    return {name: tensor.half().float() for name, tensor in params.items()}


def run_of(block: Sequence[int], sections: Mapping[str, Mapping[str, Any]], seed: int) -> RunFile:
    """The run file that would train so on scans of a block's size. Axes of one point are left out."""
    shape = [side for side in block if side > 1]
    values = {"name": "rate", "storage": "/none", "data": {"source": "none", "shape": shape}, **sections}
    values["train"] = {**sections["train"], "seed": seed}
    return parse(json.dumps(values), [])


@torch.no_grad()
def mean_curvature(field: Learned, latents: Tensor) -> Tensor:
    """JᵀJ of a block's values by its latent, summed over the values, as a mean over some latents."""
    points = grid(field.run.data.shape)
    seen = points[spread(len(points), CURVED_POINTS)]
    network = field.network

    def values(latent: Tensor) -> Tensor:
        return siren.field(network.spec, network.params, seen, latent[None])[0, :, 0]

    total = torch.zeros(latents.shape[1], latents.shape[1], dtype=torch.float64)
    chosen = latents[spread(len(latents), CURVED_LATENTS)]
    for latent in chosen:
        jacobian = torch.func.jacfwd(values)(latent).double()
        total += jacobian.T @ jacobian
    return total * (len(points) / len(seen) / len(chosen))


def whitened(latents: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A centre, and the matrices to and from coordinates in which the curvature is the identity."""
    sizes, vectors = torch.linalg.eigh(curvature)
    roots = sizes.clamp(min=1e-7 * float(sizes.max())).sqrt()
    centre = latents.double().mean(0)
    white = (latents.double() - centre) @ (vectors * roots)
    _, turn = torch.linalg.eigh(white.T @ white)
    turn = turn.flip(1)
    return centre.float(), (vectors * roots @ turn).float(), (turn.T @ (vectors / roots).T).float()
