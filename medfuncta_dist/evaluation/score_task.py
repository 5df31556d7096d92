"""Every fitted scan decoded and compared with its original: one task per committed range, returning numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.evaluation.metrics import Score, scores
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import PartRef
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.network.network_loader import network_here
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.streaming.prefetch import one_ahead
from medfuncta_dist.streaming.worker_settings import WorkerSettings

FORMAT_VERSION = "1"
DECODED_VALUES = 2**22
"""Most values that are decoded at once: 16 MB, as much for their originals, and again for those that are being read."""

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
    places = [place[key] for key in fitted["key"].to_pylist()]
    latents, found = table_format.latents_of(fitted), list[Score]()
    values = (sample.values() for sample in read_samples(store, cache, [Pick(task.work.shard, row) for row in places]))
    with closing(one_ahead(_grouped(values))) as groups:  # read while the group before is decoded and scored
        for originals in groups:
            several = latents[len(found) : len(found) + len(originals)]
            found += scores(originals, reconstruct(network, several, originals.shape[2:]))
    rows = [
        {**known, "shard": task.work.shard.sha256, "row": row, **_figures(one)}
        for known, row, one in zip(_known(fitted), places, found, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _grouped(scans: Iterable[np.ndarray]) -> Iterator[Float[np.ndarray, "scan channel *spatial"]]:
    """As many at once as ``DECODED_VALUES`` allow: a basis field's functions cost as much for one scan as for all."""
    source = iter(scans)
    for first in source:
        more = islice(source, max(1, DECODED_VALUES // first.size) - 1)
        yield np.stack([first, *more])


def _figures(one: Score) -> dict[str, float | None]:
    return {"psnr": one.psnr, "ssim": None if np.isnan(one.ssim) else one.ssim, "mse": one.mse}


def _known(fitted: pa.Table) -> list[dict[str, Any]]:
    """What the latent table already holds about each scan."""
    rows = fitted.select(["key", "split", "labels", "psnr", "below_min"]).to_pylist()
    return [{**row, "fit_psnr": row.pop("psnr")} for row in rows]
