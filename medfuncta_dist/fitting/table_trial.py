"""The tables of curved latents, from training scans: fitted by one worker before a run's tasks begin."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

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

Values = Float[np.ndarray, "scan point channel"]


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

    MedfunctaError where too few scans can be fitted.
    """
    task = trial.task
    fitter = fitter_here(task.worker, task.network, task.shape, task.settings, task.learned_rates)
    values = _values(trial)
    require_enough(len(values))
    latents, usable = _fitted(fitter, values, task)
    values, latents = values[usable], latents[usable]
    require_enough(len(values))
    store, _ = task.worker.open()
    curvature = image_curvature(load_network(store, task.network), latents, task.shape)
    judged = values[judging(len(values))]

    def quality(others: Float[np.ndarray, "scan latent"]) -> Float[np.ndarray, " scan"]:
        pairs = zip(_batches(others, task.batch), _batches(judged, task.batch), strict=True)
        found = [fitter.quality(_there(some, task), _there(scans, task)).cpu().numpy() for some, scans in pairs]
        return np.concatenate(found).astype(np.float64)

    designed = design(latents, curvature, quality, trial.bound)
    digest = write_tables(store, task.folder, designed.tables.to_bytes())
    return TrialTables(digest, trial.bound, designed.loss, designed.stream_bytes, len(values))


def chosen_rows(shards: Sequence[Shard], most: int = SCANS) -> list[tuple[int, int]]:
    """(shard, row) of so many scans, evenly spread over the shards."""
    sizes = [shard.samples for shard in shards]
    starts = np.cumsum([0, *sizes])
    places = np.linspace(0, starts[-1] - 1, min(most, int(starts[-1]))).round().astype(int)
    of = np.searchsorted(starts, places, "right") - 1
    return list(zip(of.tolist(), (places - starts[of]).tolist(), strict=True))


def _values(trial: TableTrial) -> Values:
    """Of the chosen scans that can be read."""
    store, cache = trial.task.worker.open()
    channels = network_here(trial.task.worker.root, trial.task.network, trial.task.worker.device).spec.channels
    shape, found = (channels, *trial.task.shape), []
    with closing(SampleReader(store, trial.shards, cache)) as reader:
        for shard, row in chosen_rows(trial.shards):
            read = read_scan(reader, shard, row, reader.keys(shard)[row], shape)
            if isinstance(read, Sample):
                target = np.empty((int(np.prod(trial.task.shape)), channels), np.float32)
                read.fill(target)
                found.append(target)
    return np.stack(found) if found else np.empty((0, int(np.prod(trial.task.shape)), channels), np.float32)


def _fitted(fitter: Fitter, values: Values, task: FitTask) -> tuple[Float[np.ndarray, "scan latent"], np.ndarray]:
    """Latents in float32, and which of them are usable."""
    results = [fitter.fit(_there(some, task)) for some in _batches(values, task.batch)]
    latents = np.concatenate([result.latents.cpu().numpy() for result in results])
    return latents, np.concatenate([result.finite.cpu().numpy() for result in results])


def _batches(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, max(len(values), 1), size)]


def _there(values: np.ndarray, task: FitTask) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(task.worker.device)
