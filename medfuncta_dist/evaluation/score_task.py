"""Every fitted scan decoded and compared with its original: one task per committed range, returning numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.evaluation.metrics import Score, masked_psnr, scores
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import PartRef
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.network.network_loader import network_here
from medfuncta_dist.shards.sample import Sample
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.streaming.prefetch import one_ahead
from medfuncta_dist.streaming.worker_settings import WorkerSettings

FORMAT_VERSION, MASKED_VERSION = "1", "2"
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

MASKED_SCHEMA = pa.schema(
    [*SCHEMA, pa.field("psnr_mask", pa.float64())], {"format_version": MASKED_VERSION, "kind": "metrics"}
)
"""Where any scan has a segmentation beside it: PSNR of the points inside, null for a scan without one. ``as_stored``
leaves the column out where nothing is in it."""

TASK_SCHEMA = pa.schema(
    [*MASKED_SCHEMA, pa.field("modality", pa.string()), pa.field("spacing", pa.list_(pa.float64()))],
    MASKED_SCHEMA.metadata,
)
"""What tasks return: with what the latent table knows of how a scan was taken, for means over groups of scans."""


def as_stored(scores: pa.Table) -> pa.Table:
    """Rows of ``TASK_SCHEMA`` as ``metrics.parquet`` has them: in ``SCHEMA`` where no scan has a segmentation, else in
    ``MASKED_SCHEMA``."""
    scores = scores.select(MASKED_SCHEMA.names)
    if scores["psnr_mask"].null_count < scores.num_rows:
        return scores
    return scores.drop_columns(["psnr_mask"]).cast(SCHEMA).replace_schema_metadata(SCHEMA.metadata)


@dataclass(frozen=True)
class ScoreTask:
    """One range whose part is committed."""

    worker: WorkerSettings
    folder: str
    network: NetworkRef
    work: FitWork
    part: PartRef


def score_task(task: ScoreTask) -> pa.Table:
    """Metrics of every fitted scan of the range, as rows of ``TASK_SCHEMA``."""
    store, cache = task.worker.open()
    network = network_here(task.worker.root, task.network, task.worker.device)
    fitted = table_format.read_part(store, task.folder, task.part)
    place = {key: row for row, key in enumerate(read_index(store, task.work.shard)["key"].to_pylist())}
    places = [place[key] for key in fitted["key"].to_pylist()]
    latents, found, inside = table_format.latents_of(fitted), list[Score](), list[float]()
    samples = read_samples(store, cache, [Pick(task.work.shard, row) for row in places])
    with closing(one_ahead(_grouped(samples))) as groups:  # read while the group before is decoded and scored
        for originals, masks in groups:
            several = latents[len(found) : len(found) + len(originals)]
            made = reconstruct(network, several, originals.shape[2:])
            found += scores(originals, made)
            inside += map(masked_psnr, originals, made, masks)
    rows = [
        {**known, "shard": task.work.shard.sha256, "row": row, **_figures(one, masked)}
        for known, row, one, masked in zip(_known(fitted), places, found, inside, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=TASK_SCHEMA)


class _Group(NamedTuple):
    """Several scans, and their segmentations."""

    values: Float[np.ndarray, "scan channel *spatial"]
    masks: list[np.ndarray | None]


def _grouped(samples: Iterable[Sample]) -> Iterator[_Group]:
    """As many at once as ``DECODED_VALUES`` allow: a basis field's functions cost as much for one scan as for all."""
    source = iter(samples)
    for first in source:
        several = [first, *islice(source, max(1, DECODED_VALUES // first.array.size) - 1)]
        yield _Group(np.stack([sample.values() for sample in several]), [sample.mask() for sample in several])


def _figures(one: Score, masked: float) -> dict[str, float | None]:
    figures = {"psnr": one.psnr, "ssim": one.ssim, "mse": one.mse, "psnr_mask": masked}
    return {name: None if np.isnan(figure) else figure for name, figure in figures.items()}


def _known(fitted: pa.Table) -> list[dict[str, Any]]:
    """What the latent table already holds about each scan."""
    rows = fitted.select(["key", "split", "labels", "psnr", "below_min", "modality", "spacing"]).to_pylist()
    return [{**row, "fit_psnr": row.pop("psnr")} for row in rows]
