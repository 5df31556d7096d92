"""Small problems for a basis field: every dimension, one channel and two, the context all points or some."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec, init_params, mean_and_basis
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params, linear_omegas
from medfuncta_dist.meta.closed_form.basis_gradient import LinearFit
from medfuncta_dist.meta.closed_form.feature_grid import FeatureGrid
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.learner import Ranks
from medfuncta_dist.meta.machine.arithmetic import Arithmetic

T = TypeVar("T")

SHAPES = {1: (23,), 2: (6, 5), 3: (3, 4, 3)}
TORCH = Arithmetic("torch")


def spec_of(dims: int = 2, channels: int = 1, *, features: int = 7, hidden: int = 6, layers: int = 3) -> BasisSpec:
    """A field as it is trained, without M."""
    omegas = linear_omegas(layers, 4.0, 9.0)
    return BasisSpec(dims, channels, layers, hidden, features, features, omegas, mapped=False)


def drawn(spec: BasisSpec, dtype: torch.dtype = torch.float64, seed: int = 0) -> Params:
    """Random θ whose mean is not flat, so that no part of a gradient is zero by chance."""
    generator = torch.Generator().manual_seed(seed)
    params = {name: tensor.to(dtype) for name, tensor in init_params(spec, generator).items()}
    mean = torch.randn(spec.features, generator=generator, dtype=torch.float64) / 5
    return params | {"mean.weight": mean.to(dtype)}


def linear_fit(
    dims: int = 2,
    channels: int = 1,
    ratio: float = 1.0,
    *,
    block: int = 10_000,
    scans: int = 4,
    dtype: torch.dtype = torch.float64,
    arithmetic: Arithmetic = TORCH,
    shape: tuple[int, ...] | None = None,
    **sizes: int,
) -> LinearFit:
    """Random θ, and as many scans of random values."""
    spec = spec_of(dims, channels, **sizes)
    coordinates = grid(shape or SHAPES[dims], dtype=dtype)
    values = torch.rand(scans, len(coordinates), channels, generator=torch.Generator().manual_seed(1))
    [context] = context_sets(len(coordinates), ratio, 1, seed=0, outer_step=1)
    given = None if ratio == 1.0 else context
    on = FeatureGrid(spec, drawn(spec, dtype), coordinates, block)
    return LinearFit(on, values.to(dtype), arithmetic, given)


def with_grid(fit: LinearFit, **changes: Any) -> LinearFit:
    """The same scans for a grid with some changes."""
    return replace(fit, grid=replace(fit.grid, **changes))


def rows_of(fit: LinearFit, params: Params | None = None) -> tuple[Tensor, Tensor]:
    """Mean and basis of all values at once, as one matrix with a row per value."""
    mean, basis = mean_and_basis(fit.grid.spec, params or fit.grid.params, fit.grid.coordinates)
    return mean.flatten(), basis.flatten(0, 1)


def seen_values(fit: LinearFit) -> Tensor:
    """Indices of the values that the context set has."""
    if fit.context is None:
        return torch.arange(fit.grid.values)
    channels = torch.arange(fit.grid.spec.channels)
    return (fit.context[:, None] * fit.grid.spec.channels + channels).flatten()


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """A rank that is a thread of this process; sums are over all threads, in the order of ranks."""

    mine: int
    parts: list[Tensor]
    meeting: Barrier

    @property
    def rank(self) -> int:
        return self.mine

    @property
    def size(self) -> int:
        return len(self.parts)

    def sum(self, part: Tensor) -> Tensor:
        self.parts[self.mine] = part
        self.meeting.wait(60)
        total = torch.stack(self.parts).sum(0)
        self.meeting.wait(60)
        return total


def on_threads(size: int, work: Callable[[Ranks], T]) -> list[T]:
    """What each of several ranks finds."""
    parts, meeting = [torch.empty(0)] * size, Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: work(ThreadRanks(rank, parts, meeting)), range(size)))
