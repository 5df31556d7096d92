"""The input of one rank's steps: whitened training latents with their classes, noise and noise levels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from medfuncta_dist.prior.noise_schedule import LEVELS
from medfuncta_dist.prior.prior_latents import Classes, SplitLatents
from medfuncta_dist.random_numbers import permutation, random_numbers
from medfuncta_dist.streaming.device_transfer import Contexts, Placed
from medfuncta_dist.streaming.sample_order import position, rank_slice
from medfuncta_dist.streaming.stream import Batch
from medfuncta_dist.training.world import World

UNTOLD = 0.1
"""Share of training latents whose class is not told: so the prior can draw without a class, too (Ho and Salimans 2022,
arXiv 2207.12598)."""


@dataclass(frozen=True, eq=False)
class ClassedLatents:
    """Whitened latents, each with its class."""

    whitened: Float[Tensor, "scan number"]
    classes: Int[Tensor, " scan"]

    @classmethod
    def of(cls, found: SplitLatents, coordinates: MetricCoordinates, classes: Classes) -> ClassedLatents:
        """From a table's."""
        return cls(coordinates.whitened(found.latents), classes.indices(found.labels))

    def __len__(self) -> int:
        return len(self.whitened)


@dataclass(frozen=True, eq=False)
class Noise:
    """What is drawn for some latents: a noise level each, and the noise."""

    levels: Int[Tensor, " batch"]
    noise: Float[Tensor, "batch number"]
    untold: Tensor
    """Whether the class is not told."""

    @classmethod
    def drawn(cls, rows: int, numbers: int, *name: object) -> Noise:
        """A pure function of ``name``, on every machine."""
        generator = torch.Generator().manual_seed(int(random_numbers(1, *name)[0] >> 1))
        levels = torch.randint(LEVELS, (rows,), generator=generator)
        noise = torch.randn(rows, numbers, generator=generator)
        return cls(levels, noise, torch.rand(rows, generator=generator) < UNTOLD)


class PriorFeed:
    """A rank's rows of global batches: each epoch is a permutation of the training latents, without its remainder."""

    def __init__(
        self, run: RunFile, digest: str, train: ClassedLatents, held_out: ClassedLatents, none: int, world: World
    ) -> None:
        self._train, self._world, self._none = run.train, world, none
        self.digest, self.latents, self.held_out = digest, train, held_out
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @contextmanager
    def batches(self, first: int) -> Iterator[Iterable[Placed]]:
        """This rank's part of every global batch from step ``first`` (0-based) on."""
        yield (self._placed(step) for step in range(first, self._train.steps))

    def epoch_and_batch(self, step: int) -> tuple[int, int]:
        """Epoch and batch of a step."""
        return position(step, len(self.latents) // self._train.batch)

    def inputs(self, targets: Tensor, contexts: Contexts) -> tuple[Any, ...]:
        """The arguments of the learner's forward: latents, a tie to autograd, and what is drawn for the step."""
        return targets, torch.zeros(len(targets), 1, device=self._world.device, requires_grad=True), contexts

    def zero_inputs(self) -> tuple[Any, ...]:
        """The same arguments, of a latent of zeros."""
        zeros = torch.zeros(1, self.latents.whitened.shape[1])
        return self.inputs(*self._on_device(zeros, [torch.zeros(1, dtype=torch.int64)] * 2 + [zeros]))

    def validation(self) -> tuple[Tensor, Contexts]:
        """This rank's held-out latents with levels and noise, the same ones at each call."""
        numbers, mine = self.held_out.whitened.shape[1], slice(self._world.rank, None, self._world.size)
        drawn = Noise.drawn(len(self.held_out), numbers, self._train.seed, "prior", "held out")
        contexts = [self.held_out.classes[mine], drawn.levels[mine], drawn.noise[mine]]
        return self._on_device(self.held_out.whitened[mine], contexts)

    def _placed(self, step: int) -> Placed:
        batch, (epoch, nth) = self._train.batch, self.epoch_and_batch(step)
        rows = self._order(epoch)[nth * batch : (nth + 1) * batch]
        mine = rank_slice(batch, self._world.size, self._world.rank)
        drawn = Noise.drawn(batch, self.latents.whitened.shape[1], self._train.seed, "prior", step)
        classes = torch.where(drawn.untold, self._none, self.latents.classes[rows])
        contexts = [part[mine] for part in (classes, drawn.levels, drawn.noise)]
        targets, there = self._on_device(self.latents.whitened[rows[mine]], contexts)
        return Placed(Batch(step, epoch, [], np.zeros((0, 0, 0), np.float32)), targets, there)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            self._epoch = epoch, permutation(len(self.latents), self._train.seed, "prior", epoch, self.digest)
        return self._epoch[1]

    def _on_device(self, targets: Tensor, contexts: Sequence[Tensor]) -> tuple[Tensor, Contexts]:
        device = self._world.device
        return targets.to(device), [part.to(device) for part in contexts]
