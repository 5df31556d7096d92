"""Held-out PSNR during training: the same few scans every time, fitted with the current parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.field_kinds import field
from medfuncta_dist.latents.fit import new_fitter
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.network.core_settings import fit_settings
from medfuncta_dist.patches.patch_grid import PatchGrid
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.stream import points
from medfuncta_dist.training.world import World

HELD_OUT = ("val", "test")
"""Validation uses the first of these splits that has scans."""


def held_out_split(snapshot: Snapshot) -> str | None:
    """The split to validate on; None when everything is for training."""
    return next((split for split in HELD_OUT if any(s.samples for s in snapshot.splits.get(split, ()))), None)


def evenly_spread(shard_samples: Sequence[int], count: int) -> list[SampleId]:
    """At most ``count`` scans, evenly spread over a split's shards, whatever their sizes."""
    everything = [SampleId(shard, row) for shard, rows in enumerate(shard_samples) for row in range(rows)]
    count = min(count, len(everything))
    return [everything[i * len(everything) // count] for i in range(count)]


class Validation:
    """This rank's part of the held-out scans, or of patches of them, kept in memory as (scan, point, channel) in
    [0, 1]."""

    def __init__(self, run: RunFile, samples: Iterable[Sample], world: World) -> None:
        self._world, self._chunk = world, run.fit.batch
        self._settings, self._learned_rates = fit_settings(run), run.fit.rate is None
        # Only where the run file allows pictures to leave the machine, and only of scans that are pictures.
        self._shape, self._draws_picture = (
            run.data.shape,
            run.telemetry.images and len(run.data.shape) == 2 and world.is_leader,
        )
        self.picture: np.ndarray | None = None
        """The first scan beside its reconstruction, of the last measurement."""
        self._targets, self._weights = [], []
        for sample in samples:
            self._targets.append(torch.from_numpy(points(sample)))
            self._weights.append(None if run.data.patches is None else _weights_in_scan(sample))

    def psnr(self, trained: Trained, coordinates: Tensor) -> float:
        """Mean PSNR (dB) over all ranks' scans; a fit that diverged counts as 0 dB. A collective."""
        spec, params, total = trained.spec, trained.params, 0.0
        fitter = new_fitter(spec, params, coordinates, self._settings, trained.extras, self._learned_rates)
        for start in range(0, len(self._targets), self._chunk):
            targets = torch.stack(self._targets[start : start + self._chunk]).to(self._world.device)
            fitted = fitter.fit(targets, self._weights_of(slice(start, start + self._chunk)))
            total += float(torch.where(fitted.finite, fitted.psnr, 0.0).sum())
            if start == 0 and self._draws_picture:
                self.picture = _side_by_side(
                    self._shape, targets[0], field(spec, params, coordinates, fitted.latents[:1])[0]
                )
        total, count = self._world.sum([total, len(self._targets)])
        return total / count

    def _weights_of(self, chunk: slice) -> Tensor | None:
        """(patch, point), on this rank's device; None where no patch sticks out of its scan."""
        found = self._weights[chunk]
        if all(weights is None for weights in found):
            return None
        every = torch.ones(self._targets[0].shape[0])
        whole = [every if weights is None else weights for weights in found]
        return torch.stack(whole).to(self._world.device)


def _weights_in_scan(patch: Sample) -> Tensor | None:
    """Of each point of a patch; None where all lie in its scan."""
    size = patch.array.shape[1:]
    weights = PatchGrid(tuple(patch.meta["shape"][1:]), size, (0,) * len(size)).weights
    return None if weights is None else torch.from_numpy(weights).flatten()


def _side_by_side(shape: Sequence[int], *values: Tensor) -> np.ndarray:
    """(point, channel) values of a 2D scan, side by side: float (row, column, channel) in [0, 1]."""
    images = [value.detach().clamp(0, 1).reshape(*shape, -1).cpu().numpy() for value in values]
    return np.concatenate(images, axis=1)
