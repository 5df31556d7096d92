"""The tables of curved latents, from training scans: fitted by one worker before a run's tasks begin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter

import numpy as np
import torch
from jaxtyping import Float

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.fitting.fit_task import FitTask, fitter_here, read_scan
from medfuncta_dist.latents.curved.stored_tables import write_tables
from medfuncta_dist.latents.curved.table_design import design, judging, require_enough
from medfuncta_dist.latents.fit import Fitter
from medfuncta_dist.latents.image_curvature import image_curvature
from medfuncta_dist.network.network_loader import load_network, network_here
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.streaming.sample_reader import SampleReader

SCANS = 1024
"""Training scans, or all where there are fewer."""
SHARDS = 16
"""From which they are, each downloaded whole; from more only where these hold fewer scans."""

Values = Float[np.ndarray, "scan point channel"]
Latents = Float[np.ndarray, "scan latent"]


@dataclass(frozen=True)
class TableTrial:
    """All that a worker needs."""

    task: FitTask
    """Any of the run's, for its network and settings; its range does not matter."""
    shards: tuple[Shard, ...]
    """Of the training split, in the snapshot's order."""
    bound: float
    """Mean loss of PSNR in dB."""


@dataclass(frozen=True)
class TrialTables:
    """The tables that were stored, and what they cost on the scans that told the step."""

    tables: str
    """SHA-256."""
    bound: float
    loss: float
    """Mean loss of PSNR in dB."""
    stream_bytes: float
    """Mean, per scan."""
    scans: int


def table_trial(trial: TableTrial) -> TrialTables:
    """Fit training scans, make the tables, and store them; they count when a record names them.

    MedfunctaError where too few scans can be fitted, or no tables can be made of them.
    """
    task = trial.task
    fitter = fitter_here(task.worker, task.network, task.shape, task.settings, task.learned_rates)
    latents, judged = _fitted(fitter, trial)
    store, _ = task.worker.open()
    curvature = image_curvature(load_network(store, task.network), latents, task.shape)

    def quality(others: Latents) -> Float[np.ndarray, " scan"]:
        pairs = zip(_batches(others, task.batch), _batches(judged, task.batch), strict=True)
        found = [fitter.quality(_there(some, task), _there(scans, task)).cpu().numpy() for some, scans in pairs]
        return np.concatenate(found).astype(np.float64)

    designed = design(latents, curvature, quality, trial.bound)
    digest = write_tables(store, task.folder, designed.tables.to_bytes())
    return TrialTables(digest, trial.bound, designed.loss, designed.stream_bytes, len(latents))


def chosen_rows(shards: Sequence[Shard], most: int = SCANS) -> list[tuple[int, int]]:
    """(shard, row) of so many scans, evenly spread over ``SHARDS`` evenly spread shards, or over more where shards are
    so small that these would hold fewer."""
    sizes = np.array([shard.samples for shard in shards])
    filled = np.flatnonzero(sizes)
    enough = max(SHARDS, math.ceil(most / sizes[filled].mean()))
    chosen = filled[np.linspace(0, len(filled) - 1, min(enough, len(filled))).round().astype(int)]
    starts = np.cumsum([0, *sizes[chosen]])
    places = np.linspace(0, starts[-1] - 1, min(most, int(starts[-1]))).round().astype(int)
    of = np.searchsorted(starts, places, "right") - 1
    return list(zip(chosen[of].tolist(), (places - starts[of]).tolist(), strict=True))


def _fitted(fitter: Fitter, trial: TableTrial) -> tuple[Latents, Values]:
    """The usable latents, in float32, and the values of those scans that judge. MedfunctaError for too few."""
    latents, judged, count = list[Latents](), list[Values](), 0
    for values in _value_batches(trial):
        result = fitter.fit(_there(values, trial.task))
        usable = result.finite.cpu().numpy()
        places = np.arange(count, count + usable.sum())
        count += len(places)
        latents.append(result.latents.cpu().numpy()[usable])
        judged.append(values[usable][np.isin(places, judging(count))])
    require_enough(count)
    return np.concatenate(latents), np.concatenate(judged)


def _value_batches(trial: TableTrial) -> Iterator[Values]:
    """Of the chosen scans that can be read, in batches of the task's size but for the last."""
    channels = network_here(trial.task.worker.root, trial.task.network, trial.task.worker.device).spec.channels
    scans = _scans(trial, (channels, *trial.task.shape))
    while batch := list(islice(scans, trial.task.batch)):
        values = np.empty((len(batch), math.prod(trial.task.shape), channels), np.float32)
        for scan, target in zip(batch, values, strict=True):
            scan.fill(target)
        yield values


def _scans(trial: TableTrial, shape: tuple[int, ...]) -> Iterator[Sample]:
    """Those that can be read. A shard that is lost or damaged is left out: the fit of its own scans tells of it."""
    store, cache = trial.task.worker.open()
    with closing(SampleReader(store, trial.shards, cache)) as reader:
        for shard, rows in groupby(chosen_rows(trial.shards), key=itemgetter(0)):
            try:
                cache.path(trial.shards[shard])
                keys = reader.keys(shard)
            except FormatVersionError:
                raise
            except (IntegrityError, ObjectMissingError):
                continue
            reads = (read_scan(reader, shard, row, keys[row], shape) for _, row in rows)
            yield from (read for read in reads if isinstance(read, Sample))


def _batches(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _there(values: np.ndarray, task: FitTask) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(task.worker.device)
