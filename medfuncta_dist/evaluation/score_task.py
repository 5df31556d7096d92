"""Every fitted scan decoded and compared with its original: one task per committed range, returning numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.evaluation.metrics import score
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import PartRef
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.network.network_loader import network_here
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.streaming.worker_settings import WorkerSettings

FORMAT_VERSION = "1"
DECODED_VALUES = 2**22
"""Most values that are decoded at once: 16 MB."""

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("psnr", pa.float64(), nullable=False),
        pa.field("ssim", pa.float64()),
        pa.field("mse", pa.float64(), nullable=False),
        pa.field("fit_psnr", pa.float64(), nullable=False),
        pa.field("below_min", pa.bool_(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ],
    {"format_version": FORMAT_VERSION, "kind": "metrics"},
)
"""``metrics.parquet``, a row per scan, sorted by key. PSNRs in dB: ``psnr`` from decoding the stored latent now,
``fit_psnr`` as the latent table has it. ``ssim`` is null where it is not defined. ``shard`` and ``row`` say where the
original is."""


@dataclass(frozen=True)
class ScoreTask:
    """One range whose part is committed."""

    worker: WorkerSettings
    folder: str
    network: NetworkRef
    work: FitWork
    part: PartRef


def score_task(task: ScoreTask) -> pa.Table:
    """Metrics of every fitted scan of the range, as rows of ``SCHEMA``."""
    store, cache = task.worker.open()
    network = network_here(task.worker.root, task.network, task.worker.device)
    fitted = table_format.read_part(store, task.folder, task.part)
    place = {key: row for row, key in enumerate(read_index(store, task.work.shard)["key"].to_pylist())}
    keys = fitted["key"].to_pylist()
    samples = read_samples(store, cache, [Pick(task.work.shard, place[key]) for key in keys])
    latents, decoded = table_format.latents_of(fitted), deque[np.ndarray]()
    rows = []
    for row, (sample, known) in enumerate(zip(samples, _known(fitted), strict=True)):
        values = sample.values()
        if not decoded:  # several at once: a basis field's functions cost as much for one scan as for all
            several = latents[row : row + max(1, DECODED_VALUES // values.size)]
            decoded.extend(reconstruct(network, several, values.shape[1:]))
        result = score(values, decoded.popleft())
        ssim = None if np.isnan(result.ssim) else result.ssim
        here = {"shard": task.work.shard.sha256, "row": place[sample.key]}
        rows.append({**known, **here, "psnr": result.psnr, "ssim": ssim, "mse": result.mse})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _known(fitted: pa.Table) -> list[dict[str, Any]]:
    """What the latent table already holds about each scan."""
    rows = fitted.select(["key", "split", "labels", "psnr", "below_min"]).to_pylist()
    return [{**row, "fit_psnr": row.pop("psnr")} for row in rows]
