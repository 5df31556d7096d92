"""Latents drawn from a prior: a pure function of prior, seed and number, whatever else is drawn with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import ndtri
from torch import Tensor
from torch.nn.functional import pad

from medfuncta_dist.prior.denoiser import velocity
from medfuncta_dist.prior.noise_schedule import NoiseSchedule
from medfuncta_dist.prior.prior_files import Prior
from medfuncta_dist.random_numbers import random_numbers

GROUP = 64
"""Samples per pass, the last ones filled up with zeros: how a product adds up depends on its size, and a sample must
not depend on how many are drawn with it."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples in the prior's coordinates, each with its class."""

    whitened: Float[Tensor, "sample number"]
    classes: Int[Tensor, " sample"]


@torch.no_grad()
def draw(prior: Prior, count: int, seed: int, label_class: int | None = None, first: int = 0) -> Drawn:
    """Samples ``first`` … ``first`` + ``count`` - 1 of this seed. ``label_class``: of all; None draws classes as often
    as training scans have them."""
    noise, classes = _starts(prior, range(first, first + count), seed, label_class)
    groups, schedule = [], NoiseSchedule()
    for start in range(0, count, GROUP):
        rows = slice(start, start + GROUP)
        missing = GROUP - len(noise[rows])
        told = pad(classes[rows], (0, missing))

        def found(noisy: Tensor, levels: Tensor, told: Tensor = told) -> Tensor:
            return velocity(prior.spec, prior.params, noisy, levels, told)

        whitened = schedule.denoised(pad(noise[rows], (0, 0, 0, missing)), found)
        groups.append(whitened[: GROUP - missing])
    return Drawn(torch.cat(groups), classes)


def _starts(prior: Prior, samples: range, seed: int, label_class: int | None) -> tuple[Tensor, Tensor]:
    """The noise that each sample is made from, and its class."""
    noise, classes = np.empty((len(samples), prior.spec.numbers), np.float32), np.empty(len(samples), np.int64)
    for row, number in enumerate(samples):
        raw = random_numbers(prior.spec.numbers + 1, "sample", seed, number)
        uniform = ((raw >> np.uint64(11)) + 0.5) / 2.0**53
        noise[row] = ndtri(uniform[:-1])  # not a generator's normal numbers: those may change with NumPy's version
        classes[row] = prior.classes.drawn(float(uniform[-1])) if label_class is None else label_class
    return torch.from_numpy(noise), torch.from_numpy(classes)


def labels_of(prior: Prior, drawn: Drawn) -> Sequence[int | None]:
    """The label of each sample; None of one that was drawn without."""
    return [prior.classes.label(int(index)) for index in drawn.classes]
