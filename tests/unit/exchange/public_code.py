"""The public MedFuncta code, written anew from its formulas and file layout: nothing here comes from the package.

Friedrich et al., github.com/pfriedri/medfuncta: models/inrs.py, models/layers.py, models/model_wrapper.py, and
eval/maml_full_fit.py, which writes the latents.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn


class Layer(nn.Module):
    """sin(w0 · (W x + b + M φ + c)); the last one is linear, and does not use its M and c."""

    def __init__(self, ins: int, outs: int, latent: int, w0: float, last: bool = False) -> None:
        super().__init__()
        self.w0, self.last = w0, last
        self.linear = nn.Linear(ins, outs)
        self.modulate_shift_layer = nn.Linear(latent, outs)
        bound = math.sqrt(6 / ins) / w0
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        return x if self.last else torch.sin(self.w0 * (x + self.modulate_shift_layer(latent)[:, None]))


class Siren(nn.Module):
    """K layers, ω growing by an increment; from the second one on with skip connections."""

    def __init__(
        self,
        coords: int,
        channels: int,
        hidden: int = 16,
        layers: int = 5,
        latent: int = 8,
        w0: float = 10.0,
        increment: float = 5.0,
        skips: bool = True,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i in range(layers - 1):
            self.layers.append(Layer(hidden if i else coords, hidden, latent, w0))
            w0 += increment
        self.last_layer = Layer(hidden, channels, latent, w0, last=True)
        self.enable_skip_connections = skips

    def forward(self, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](x, latents)
        for layer in self.layers[1:]:
            y = layer(x, latents)
            x = x + y if self.enable_skip_connections else y
        return self.last_layer(x, latents) + 0.5


class Wrapper(nn.Module):
    """What is trained and saved: the model, and the grid of one resolution as a buffer."""

    def __init__(self, model: Siren, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.shape = model, shape
        axes = [torch.linspace(-1.0, 1.0, n) for n in shape]
        mesh = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        self.register_buffer("grid", mesh.reshape(-1, len(shape)))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(scan, channel, *shape), clamped as its fitting shows them."""
        out = self.model(self.grid[None].repeat(len(latents), 1, 1), latents)
        return out.transpose(1, 2).reshape(len(latents), -1, *self.shape).clamp(0, 1)


def new_wrapper(shape: tuple[int, ...], channels: int = 1, seed: int = 0, **sizes: object) -> Wrapper:
    torch.manual_seed(seed)
    return Wrapper(Siren(len(shape), channels, **sizes), shape)  # type: ignore[arg-type]


def write_latents(folder: Path, split: str, latents: torch.Tensor, labels: torch.Tensor, batch: int = 1) -> None:
    """As ``fit_nfs`` does: slices of a batch, one file each."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    for n, (some, told) in enumerate(zip(latents.split(batch), labels.split(batch), strict=True)):
        for i in range(len(some)):
            datapoint = {"modulations": some[i].detach().cpu(), "label": told[i].detach().cpu()}
            torch.save(datapoint, folder / split / f"datapoint_{n * batch + i}.pt")
