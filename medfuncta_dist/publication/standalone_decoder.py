"""Decode the latents of this folder to scans. It needs numpy, torch and safetensors, and no other package.

    from decode import Decoder

    decoder = Decoder()                     # of the folder that this file lies in
    values = decoder.decode(rows)           # rows of a Parquet file in data/, as dicts or as columns
    values = decoder.decode(rows, (256, 256))

Values are float32 in [0, 1], shaped (row, channel, *shape), at any resolution; the field of view stays the same.
``latents.json`` says how latents are stored, ``network/`` holds the shared network that all of them belong to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import linear, pad

POINTS = 8192
"""Decoded at a time."""
GROUP = 32
"""Scans of a basis field that are computed together."""
OFFSET = 0.5
"""What a SIREN adds to its last layer."""
VERSIONS = {"siren": 1, "basis": 2}


class Decoder:
    """The network and the storage of latents of one folder."""

    def __init__(self, folder: str | Path = Path(__file__).parent, device: str = "cpu") -> None:
        """ValueError where the folder has a format_version that this decoder does not read."""
        folder = Path(folder)
        self.stored = json.loads((folder / "latents.json").read_text("utf-8"))
        described = json.loads((folder / "network" / "network.json").read_text("utf-8"))
        self.spec = described["spec"]
        self.kind = self.spec.get("kind", "siren")
        if self.stored["format_version"] != 1 or described["format_version"] != VERSIONS.get(self.kind):
            raise ValueError("this decoder does not read the format_version of latents.json or network.json")
        self.shape = tuple(described["contract"]["shape"])
        self.params = load_file(folder / "network" / "network.safetensors", device=device)
        self.device = device

    def latents(self, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> torch.Tensor:
        """The latents of some rows as float32 (row, latent): int8 numbers times the row's scale and their units."""
        columns = rows if isinstance(rows, Mapping) else {name: [row[name] for row in rows] for name in rows[0]}
        latents = np.asarray(columns["latent"], np.float32)
        if self.stored["storage_type"] == "int8":
            latents = latents * np.asarray(columns["scale"], np.float32)[:, None]
        if self.stored["units"] is not None:
            latents = latents * np.asarray(self.stored["units"], np.float32)
        return torch.from_numpy(np.ascontiguousarray(latents)).to(self.device)

    @torch.no_grad()
    def decode(
        self, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any], shape: Sequence[int] | None = None
    ) -> np.ndarray:
        """Values (row, channel, *shape) in [0, 1]; ``shape`` has at least two points per axis. None: as fitted."""
        shape = tuple(shape or self.shape)
        axes = [torch.linspace(-1.0, 1.0, n, device=self.device) for n in shape]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(shape))
        latents = self.latents(rows)
        values = torch.cat([self._values(points, latents) for points in torch.split(grid, POINTS)], dim=1)
        whole = values.transpose(1, 2).reshape(len(latents), self.spec["channels"], *shape)
        return whole.clamp(0, 1).cpu().numpy()

    def _values(self, points: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        if self.kind == "basis":
            return self._basis(points, latents)
        return torch.cat([self._siren(points, latent[None]) for latent in latents])

    def _layer(self, kind: str, k: int, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.params[f"{kind}.{k}.weight"], self.params[f"{kind}.{k}.bias"])

    def _siren(self, points: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """A latent shifts the phases of sine layers that all scans share."""
        hidden, layers = points[None], self.spec["layers"]
        for k in range(1, layers):
            phase = self._layer("layer", k, hidden)
            if f"modulation.{k}.weight" in self.params:
                phase = phase + self._layer("modulation", k, latents)[:, None]
            wave = torch.sin(self.spec["omegas"][k - 1] * phase)
            hidden = hidden + wave if self.spec["residual"] and k > 1 else wave
        return self._layer("layer", layers, hidden) + OFFSET

    def _basis(self, points: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """A latent weights functions that all scans share."""
        hidden = points
        for k in range(1, self.spec["layers"]):
            hidden = torch.sin(self.spec["omegas"][k - 1] * self._layer("layer", k, hidden))
        features = hidden.view(len(points), self.spec["channels"], self.spec["features"])
        mean = features @ self.params["mean.weight"] + self.params["mean.bias"]
        basis = features @ self.params["latent.map"] if self.spec["mapped"] else features
        rows = basis.flatten(0, 1)[:, : latents.shape[1]]
        groups = [pad(group, (0, 0, 0, GROUP - len(group))) @ rows.T for group in torch.split(latents, GROUP)]
        return mean + torch.cat(groups)[: len(latents)].view(len(latents), *mean.shape)
