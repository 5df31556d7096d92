"""Latents and thumbnails of the chosen scans of one part of the latent table: a task on a worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from medfuncta_dist.evaluation.latent_map.thumbnails import thumbnails
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import PartRef
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.network.network_loader import network_here
from medfuncta_dist.streaming.worker_settings import WorkerSettings


@dataclass(frozen=True)
class MapTask:
    """The scans ``keys`` of a part. ``grid``: points per axis of a thumbnail; None for none."""

    worker: WorkerSettings
    folder: str
    network: NetworkRef
    part: PartRef
    keys: tuple[str, ...]
    grid: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class MapScans:
    """What a task has found, in one order: latents as float32, and a thumbnail each (or none at all)."""

    keys: list[str]
    latents: Float[np.ndarray, "scan latent"]
    thumbnails: list[np.ndarray]


def map_task(task: MapTask) -> MapScans:
    """Read the part, and decode the scans that are asked for."""
    store, _ = task.worker.open()
    rows = table_format.read_part(store, task.folder, task.part, ["key", "latent", "slice"])
    rows = rows.filter(pc.is_in(rows["key"], pa.array(task.keys, pa.string())))
    latents = table_format.latents_of(rows)
    pictures: list[np.ndarray] = []
    if task.grid is not None and len(latents):
        network = network_here(task.worker.root, task.network, task.worker.device)
        upright = [place is not None for place in rows["slice"].to_pylist()]
        pictures = thumbnails(network, latents, task.grid, upright)
    return MapScans(rows["key"].to_pylist(), latents, pictures)
