"""What `fields.py` compares: ways to describe a scan by P numbers, all behind one interface.

``Learned`` is a network of either kind, trained and fitted as the product does; ``Linear`` is PCA; ``Cosines`` is a
fixed set of DCT coefficients. All of them share a mean scan, or a field that has learned one, which is not counted.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.train_section import Augment
from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.evaluation.pca import components_of
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import field
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.learner import Learner, Trained
from medfuncta_dist.network.core_settings import fit_settings, new_learner
from medfuncta_dist.streaming.augment import augmented
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.optim.outer_optimizers import outer_optimizer
from medfuncta_dist.training.optim.parameter_groups import SHARE

DRAWS_BYTES = 2**27
"""Of augmented scans that PCA is fitted on, as float32; its decomposition is in float64."""
FIT_AT_ONCE = 128
"""Scans that are fitted at once: a Gauss-Newton step holds P² numbers for each."""


class Method(Protocol):
    """A way to describe scans of a data set by numbers; the first ones of several are a description of their own."""

    def encode(self, scans: Tensor) -> Tensor:
        """Scans (scan, point, 1) as (scan, number)."""
        ...

    def decode(self, numbers: Tensor) -> Tensor:
        """Numbers, or the first of them, as scans on the grid of the training scans."""
        ...


def decibel(method: Method, scans: Tensor, first: int | None = None) -> float:
    """Mean PSNR (dB) over scans, values clamped to [0, 1]; of the ``first`` numbers only, where they are given."""
    return score(method.decode(method.encode(scans)[:, :first]), scans)


def score(decoded: Tensor, scans: Tensor) -> float:
    """The same of decoded scans. What is not finite counts as 0 dB."""
    errors = (decoded.clamp(0, 1) - scans).flatten(1).double().square().mean(1)
    found = torch.from_numpy(psnr(errors.numpy()))
    return float(torch.where(errors.isfinite(), found, 0).mean())


def milliseconds_per_scan(method: Method, scans: Tensor, least: float = 0.2) -> float:
    """CPU time of encoding, without what a method prepares once. Repeated for ``least`` seconds at least."""
    method.encode(scans[:1])
    began, done = time.process_time(), 0
    while done == 0 or time.process_time() - began < least:
        method.encode(scans)
        done += len(scans)
    return 1000 * (time.process_time() - began) / done


@dataclass(frozen=True)
class Learned:
    """A trained network, fitted as its run file says."""

    run: RunFile
    network: Trained

    @cached_property
    def _fitter(self) -> Fitter:
        network = self.network
        settings = fit_settings(self.run)
        return new_fitter(network.spec, network.params, grid(self.run.data.shape), settings, network.extras)

    def encode(self, scans: Tensor) -> Tensor:
        """By the product's fit."""
        return torch.cat([self._fitter.fit(part).latents for part in scans.split(FIT_AT_ONCE)])

    def decode(self, numbers: Tensor) -> Tensor:
        """On the grid of the training scans."""
        return self.decode_at(numbers, self.run.data.shape)

    @torch.no_grad()
    def decode_at(self, numbers: Tensor, shape: Sequence[int]) -> Tensor:
        """On any grid of the same field of view."""
        return field(self.network.spec, self.network.params, grid(shape), numbers)


@dataclass(frozen=True)
class Linear:
    """A mean scan (value) and orthonormal rows (number, value)."""

    mean: Tensor
    rows: Tensor

    def encode(self, scans: Tensor) -> Tensor:
        """One product."""
        return (scans.flatten(1) - self.mean) @ self.rows.T

    def decode(self, numbers: Tensor) -> Tensor:
        """One product."""
        return (self.mean + numbers @ self.rows[: numbers.shape[1]])[..., None]


@dataclass(frozen=True)
class Cosines:
    """A mean scan (value), and places (number) in the flat array of DCT coefficients."""

    mean: Tensor
    places: Tensor
    shape: tuple[int, ...]

    def encode(self, scans: Tensor) -> Tensor:
        """A whole transform, of which some coefficients are kept."""
        return transformed(scans.flatten(1) - self.mean, self.shape)[:, self.places]

    def decode(self, numbers: Tensor) -> Tensor:
        """The inverse transform, all other coefficients zero."""
        whole = numbers.new_zeros(len(numbers), math.prod(self.shape))
        whole[:, self.places[: numbers.shape[1]]] = numbers
        return (self.mean + transformed(whole, self.shape, scipy.fft.idctn))[..., None]


def transformed(flat: Tensor, shape: Sequence[int], transform: Callable[..., Any] = scipy.fft.dctn) -> Tensor:
    """Orthonormal DCT of each row, or its inverse."""
    array = flat.reshape(-1, *shape).numpy()
    return torch.from_numpy(transform(array, axes=range(1, array.ndim), norm="ortho").reshape(len(flat), -1))


def cosines(scans: Tensor, shape: Sequence[int], numbers: int) -> Cosines:
    """The DCT coefficients of largest variance over the scans, in the order of their variance."""
    mean = scans.flatten(1).mean(0)
    variances = transformed(scans.flatten(1) - mean, shape).double().square().sum(0)
    return Cosines(mean, variances.argsort(descending=True, stable=True)[:numbers], tuple(shape))


def pca(scans: Tensor, numbers: int) -> Linear:
    """As ``evaluation/pca.py`` counts components, but never randomised: the components of an exact decomposition."""
    from sklearn.decomposition import PCA  # takes a second

    flat = scans.flatten(1).numpy()
    solver = "covariance_eigh" if len(flat) >= flat.shape[1] else "full"
    found = PCA(components_of(numbers, *flat.shape), svd_solver=solver).fit(flat.astype(np.float64))
    return Linear(torch.from_numpy(found.mean_).float(), torch.from_numpy(found.components_).float())


def scan_stream(scans: Tensor, shape: Sequence[int], augment: Augment | None, seed: int) -> Iterator[Tensor]:
    """Training scans (point, 1) without end: each epoch in an order of its own, and with its own changes."""
    order = torch.Generator().manual_seed(seed)
    for epoch in itertools.count():
        for row in torch.randperm(len(scans), generator=order).tolist():
            yield changed(scans[row], shape, augment, seed, epoch, str(row)) if augment else scans[row]


def changed(scan: Tensor, shape: Sequence[int], augment: Augment, seed: int, epoch: int, key: str) -> Tensor:
    """A scan as training would see it in that epoch."""
    values = scan.reshape(1, *shape).numpy()
    return torch.from_numpy(augmented(values, augment, seed=seed, epoch=epoch, key=key)).reshape(-1, 1)


def draws(scans: Tensor, shape: Sequence[int], augment: Augment, most: int, seed: int = 0) -> Tensor:
    """Augmented scans for PCA: ``most``, or as many as fit."""
    count = min(most, DRAWS_BYTES // (4 * scans[0].numel()))
    return torch.stack(list(itertools.islice(scan_stream(scans, shape, augment, seed), count)))


Watch = Callable[[int, float, Learned], None]
"""Told of a network after some outer steps: how many, the CPU seconds so far, and the network."""


def trained(
    run: RunFile, scans: Tensor, watched: Sequence[int] = (), watch: Watch | None = None
) -> tuple[Learned, float]:
    """Train as the run file says, on one thread; the network and its CPU seconds, drawing and finishing included.

    ``watched``: numbers of outer steps after which ``watch`` is told of the network as it is then.
    """
    learner, clock = new_learner(run), Clock()
    outer = outer_optimizer(learner, run.train)
    stream = scan_stream(scans, run.data.shape, run.train.augment, run.train.seed)
    for step in range(run.train.steps):
        if watch and step in watched:
            watch(step, *_told(clock, run, learner, scans))
        with clock:
            batch = torch.stack(list(itertools.islice(stream, run.train.batch)))
            if not outer_step(learner, outer, batch, run, step):
                break
    found, seconds = finished(run, learner, scans, clock)
    if watch:
        watch(run.train.steps, seconds, found)
    return found, seconds


def outer_step(learner: Learner, outer: torch.optim.Optimizer, batch: Tensor, run: RunFile, step: int) -> bool:
    """One outer step as training takes it; False where the loss is not finite."""
    contexts = context_sets(
        run.data.points, run.meta.selection_ratio, run.context_sets, seed=run.train.seed, outer_step=step
    )
    learner.zero_grad()
    loss = learner(batch, torch.zeros(len(batch), run.field.latent, requires_grad=True), contexts).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learner.parameters(), run.train.clip or math.inf)
    for group in outer.param_groups:
        group["lr"] = learning_rate(step, run.train) * group[SHARE]
    outer.step()
    return math.isfinite(loss.item())


class Clock:
    """Process CPU seconds of the blocks that it is entered for."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __enter__(self) -> Clock:
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began


def _told(clock: Clock, run: RunFile, learner: Learner, scans: Tensor) -> tuple[float, Learned]:
    found, seconds = finished(run, learner, scans, Clock(clock.seconds))
    return seconds, found


def finished(run: RunFile, learner: Learner, scans: Tensor, clock: Clock) -> tuple[Learned, float]:
    """The network with its latents' own coordinates, from as many training scans as it asks for."""
    # A stream of its own: the one of the outer steps goes on as if nobody had looked.
    fresh = scan_stream(scans, run.data.shape, run.train.augment, run.train.seed + 1)
    wanted = learner.scans_to_finish
    if not run.train.augment:
        wanted = min(wanted, len(scans))
    with clock:
        batches = (torch.stack([scan, *itertools.islice(fresh, 255)]) for scan in fresh)
        parts = itertools.islice(batches, math.ceil(wanted / 256))
        params = {name: tensor.detach().clone() for name, tensor in learner.params().items()}
        network = learner.trained(params, _first(parts, wanted))
    return Learned(run, network), clock.seconds


def _first(batches: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    for batch in batches:
        yield batch[:count]
        count -= len(batch)


def with_fit(method: Learned, **changes: Any) -> Learned:
    """The same network, fitted in another way."""
    return Learned(method.run.model_copy(update={"fit": method.run.fit.model_copy(update=changes)}), method.network)


def odd(shape: Sequence[int]) -> tuple[int, ...]:
    """The largest grid within ``shape`` of which every second point is a grid of the same field of view."""
    return tuple(n - 1 + n % 2 for n in shape)


def cropped(scans: Tensor, shape: Sequence[int], to: Sequence[int], step: int = 1) -> Tensor:
    """The first points along each axis, or every ``step``-th of them."""
    picked = scans.reshape(-1, *shape)[(slice(None), *(slice(0, n, step) for n in to))]
    return picked.reshape(len(scans), -1, 1)


def upsampled(scans: Tensor, shape: Sequence[int], how: str) -> Tensor:
    """Scans on the grid with a point between each two neighbours: ``linear``, or the ``cosines`` of a zero-padded DCT.

    The cosines of the coarse grid are read at its own points and half-way between them, so those points keep their
    values: padding alone would shift the grid.
    """
    array = scans.reshape(-1, *shape)
    for axis, n in enumerate(shape, 1):
        array = torch.tensordot(array, between(n, how), dims=([axis], [1])).movedim(-1, axis)
    return array.reshape(len(scans), -1, 1)


def between(n: int, how: str) -> Tensor:
    """(2n − 1, n): values at every half point from those at n points."""
    places = torch.arange(2 * n - 1, dtype=torch.float64) / 2
    if how == "linear":
        return (1 - (places[:, None] - torch.arange(n)).abs()).clamp(min=0).float()
    waves = torch.cos(math.pi / n * (places[:, None] + 0.5) * torch.arange(n)) * math.sqrt(2 / n)
    waves[:, 0] /= math.sqrt(2)
    analysis = torch.from_numpy(scipy.fft.dct(np.eye(n), axis=0, norm="ortho"))
    return (waves @ analysis).float()
