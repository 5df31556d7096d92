"""Imported latents beside their packed scans: what is known of each scan, and PSNR of the latent as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ScanError
from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.exchange.latent_file import UNUSED, PublicLatent
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_rows import DAMAGED_SAMPLE
from medfuncta_dist.fitting.fit_task import verify_shard
from medfuncta_dist.latents.latent_types import StorageType, store
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache

SCORED = 16
"""Scans that are decoded and compared at a time."""
OTHER_SCAN = f"{UNUSED}its label is not the scan's, so that it may be another scan's"


class KnownScan(NamedTuple):
    """What is known of a latent's scan; ``psnr`` (dB) is NaN where there was no scan to measure it on."""

    meta: dict[str, Any]
    psnr: float


class Comparison(NamedTuple):
    """What a worker compares with: the range's scans and the network."""

    store: ObjectStore
    cache: ShardCache
    work: FitWork
    network: SharedNetwork
    storage_type: StorageType


def compare(among: Comparison, latents: Mapping[int, PublicLatent]) -> dict[int, KnownScan | str]:
    """Of each latent, by its row of the range, its scan; or why it is quarantined: the scan cannot be used, or has
    another label. A few scans are in memory at a time. DamagedShardError where the shard is not the packed one."""
    found: dict[int, KnownScan | str] = {}
    rows = list(latents)
    with closing(SampleReader(among.store, [among.work.shard], among.cache)) as reader:
        verify_shard(among.cache, among.work.shard, reader)
        for start in range(0, len(rows), SCORED):
            some = {row: _read(reader, among.work.start + row, latents[row]) for row in rows[start : start + SCORED]}
            samples = {row: sample for row, sample in some.items() if not isinstance(sample, str)}
            found |= {row: reason for row, reason in some.items() if isinstance(reason, str)}
            found |= _scored(among, samples, latents) if samples else {}
    return found


def _read(reader: SampleReader, row: int, latent: PublicLatent) -> Sample | str:
    try:
        members = reader.read(SampleId(0, row))
        sample = decode(members["__key__"], members["npy"], members["json"])
    except FormatVersionError:
        raise  # caused by the version, not by this scan
    except ScanError as error:
        return error.what
    except IntegrityError:
        return DAMAGED_SAMPLE
    labels = list(sample.labels)
    return OTHER_SCAN if labels and latent.labels and labels != latent.labels else sample


def _scored(
    among: Comparison, samples: Mapping[int, Sample], latents: Mapping[int, PublicLatent]
) -> dict[int, KnownScan]:
    numbers = torch.from_numpy(np.stack([latents[row].numbers for row in samples]))
    restored = store(numbers, among.storage_type).restored().numpy()
    exact = np.stack([sample.values() for sample in samples.values()]).astype(np.float64)
    made = reconstruct(among.network, restored, exact.shape[2:])
    quality = psnr(np.square(exact - made).reshape(len(exact), -1).mean(axis=1)).tolist()
    return {row: KnownScan(sample.meta, db) for (row, sample), db in zip(samples.items(), quality, strict=True)}
