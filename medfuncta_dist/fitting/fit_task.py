"""The fit task: one range of one shard, from verified bytes to a committed part. Self-contained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from medfuncta_dist.errors import (
    DamagedShardError,
    FormatVersionError,
    IntegrityError,
    ObjectMissingError,
    ScanError,
)
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.latent_ledger import Commit, Quarantined
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.table_format import Row
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.network.network_loader import KEPT, network_here
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.worker_settings import WorkerSettings

NOT_FINITE = "its latent is not finite"
NOT_STORABLE = "its latent does not fit the storage type"
DAMAGED_SAMPLE = "its bytes in the shard are damaged"
WRONG_SHAPE = "its shape is not the data contract's"


@dataclass(frozen=True)
class FitTask:
    """All that a worker needs. It is small: the network is read from storage, once per process."""

    worker: WorkerSettings
    folder: str
    network: NetworkRef
    work: FitWork
    shape: tuple[int, ...]
    settings: FitSettings
    learned_rates: bool
    """Whether to use the network's learned step sizes, if it has any."""
    batch: int
    min_psnr: float
    fit_digest: str
    fence: Guard

    @property
    def name(self) -> str:
        """The range's name."""
        return self.work.name


@dataclass(frozen=True)
class Fitted:
    """The result of a task: the number of scans with a latent, and whether another copy had already committed them."""

    rows: int
    earlier: bool = False


def fit_task(task: FitTask) -> Fitted:
    """Fit one range, write its part, then its commit record; does nothing if that is done already.

    A worker can die between its commit and its result, and the task is retried; a slow task can have a second copy. The
    first commit stays. A scan that cannot be used is quarantined and its neighbours go on, bit for bit as if it had
    been usable. DamagedShardError when the shard as a whole is not the one that the snapshot lists.
    """
    store, cache = task.worker.open()
    if earlier := _committed(store, task):
        return earlier
    network = network_here(task.worker.root, task.network, task.worker.device)
    rows: list[Row] = []
    quarantined: list[Quarantined] = []
    with closing(SampleReader(store, [task.work.shard], cache)) as reader:
        _verify_shard(cache, task.work.shard, reader)
        for batch in _batches(task, reader, (network.spec.channels, *task.shape)):
            fitted, refused = _fit(task, network, batch)
            rows += fitted
            quarantined += refused
    part = _write_part(task, store, network, rows)
    if earlier := _committed(store, task):
        return earlier
    latent_ledger.write_commit(store, task.folder, task.work, _commit(task, rows, quarantined, part), task.fence)
    return Fitted(len(rows))


def _verify_shard(cache: ShardCache, shard: Shard, reader: SampleReader) -> None:
    """Verify the shard and its index as a whole: after this, any damage concerns single scans."""
    try:
        cache.path(shard)
        reader.keys(0)
    except FormatVersionError:
        raise
    except (IntegrityError, ObjectMissingError) as error:
        raise DamagedShardError(error.what, where=error.where, do=error.do) from error


def _committed(store: ObjectStore, task: FitTask) -> Fitted | None:
    commit = latent_ledger.read_commit(store, task.folder, task.work, task.fence)
    return None if commit is None or commit.failed else Fitted(commit.rows, earlier=True)


Read = Sample | Quarantined | None
"""A scan of a batch: read, quarantined, or (None) outside the range."""


def _batches(task: FitTask, reader: SampleReader, shape: tuple[int, ...]) -> Iterator[list[Read]]:
    """The range's scans in the shard's batches, which begin at its first row: a scan's place, and with it its bits, do
    not depend on how ranges are cut or divided."""
    keys, work = reader.keys(0), task.work
    for start in range(work.start - work.start % task.batch, work.stop, task.batch):
        rows = range(start, min(start + task.batch, work.stop))
        yield [_read(reader, row, keys[row], shape) if row >= work.start else None for row in rows]


def _read(reader: SampleReader, row: int, key: str, shape: tuple[int, ...]) -> Sample | Quarantined:
    """One scan; quarantined where it is not readable, or not of ``shape`` (channel, spatial axes)."""
    try:
        members = reader.read(SampleId(0, row))
        sample = decode(key, members["npy"], members["json"])
    except FormatVersionError:
        raise  # caused by the version, not by this scan: quarantining would hide it
    except ScanError as error:
        return Quarantined(key, error.what)
    except IntegrityError:
        return Quarantined(key, DAMAGED_SAMPLE)
    return sample if sample.array.shape == shape else Quarantined(key, WRONG_SHAPE)


@lru_cache(maxsize=KEPT)
def fitter_here(
    worker: WorkerSettings, ref: NetworkRef, shape: tuple[int, ...], settings: FitSettings, learned_rates: bool
) -> Fitter:
    """The network, ready to fit; created once per process."""
    network = network_here(worker.root, ref, worker.device)
    coordinates = grid(shape, device=worker.device)
    return new_fitter(network.spec, network.params, coordinates, settings, network.extras, learned_rates)


def _fit(task: FitTask, network: SharedNetwork, batch: Sequence[Read]) -> tuple[list[Row], list[Quarantined]]:
    """Fit one batch. Unusable scans, those of other ranges and the padding are zeros: shapes never depend on them."""
    fitter = fitter_here(task.worker, task.network, task.shape, task.settings, task.learned_rates)
    result = fitter.fit(torch.from_numpy(_targets(task, network, batch)).to(task.worker.device))
    return _sort_out(task, batch, _Fitted.of(result))


@dataclass(frozen=True)
class _Fitted:
    """A batch's result as arrays. ``numbers`` are in the type that is stored."""

    numbers: Shaped[np.ndarray, "batch latent"]
    scales: Float[np.ndarray, " batch"] | None
    deviations: Float[np.ndarray, " latent"] | None
    quality: Float[np.ndarray, " batch"]
    steps: Int[np.ndarray, " batch"]
    finite: Bool[np.ndarray, " batch"]
    storable: Bool[np.ndarray, " batch"]

    @classmethod
    def of(cls, result: FitResult) -> _Fitted:
        stored, storable = result.stored, ~torch.isinf(result.latents).any(dim=1)
        return cls(
            stored.numbers.cpu().numpy(),
            None if stored.scales is None else stored.scales.cpu().numpy(),
            None if stored.deviations is None else stored.deviations.cpu().numpy(),
            result.psnr.cpu().numpy(),
            result.steps.cpu().numpy(),
            result.finite.cpu().numpy(),
            storable.cpu().numpy(),
        )


def _targets(task: FitTask, network: SharedNetwork, batch: Sequence[Read]) -> Float[np.ndarray, "batch point channel"]:
    # A shard smaller than a batch has a batch of its own size: its length is as fixed as its content.
    size = min(task.batch, task.work.shard.samples)
    targets = np.zeros((size, int(np.prod(task.shape)), network.spec.channels), np.float32)
    for row, read in enumerate(batch):
        if isinstance(read, Sample):
            targets[row] = points(read.values())
    return targets


def points(values: Float[np.ndarray, channel * spatial]) -> Float[np.ndarray, "point channel"]:
    """An array as the rows that a coordinate grid indexes."""
    return values.reshape(values.shape[0], -1).T


def _sort_out(task: FitTask, batch: Sequence[Read], fitted: _Fitted) -> tuple[list[Row], list[Quarantined]]:
    """Each scan of the batch as a row of the table or as quarantined."""
    rows, quarantined = [], []
    for i, read in enumerate(batch):
        if read is None:
            continue
        if isinstance(read, Quarantined):
            quarantined.append(read)
        elif not fitted.storable[i] and task.settings.storage_type == "float16":
            quarantined.append(Quarantined(read.key, NOT_STORABLE))
        elif not fitted.finite[i]:
            quarantined.append(Quarantined(read.key, NOT_FINITE))
        else:
            rows.append(_row(task, read, fitted, i))
    return rows, quarantined


def _row(task: FitTask, sample: Sample, fitted: _Fitted, i: int) -> Row:
    meta, quality = sample.meta, float(fitted.quality[i])
    affine = meta["affine"]
    return Row(
        key=sample.key,
        split=task.work.split,
        labels=tuple(meta["labels"]),
        latent=fitted.numbers[i],
        scale=None if fitted.scales is None else float(fitted.scales[i]),
        deviations=fitted.deviations,
        psnr=quality,
        below_min=quality < task.min_psnr,
        steps=int(fitted.steps[i]),
        window=(meta["window"][0], meta["window"][1]),
        spacing=tuple(meta["spacing"]),
        affine=None if affine is None else tuple(float(x) for line in affine for x in line),
        modality=meta["modality"],
        slice_index=meta["slice"],
    )


def _write_part(
    task: FitTask, store: ObjectStore, network: SharedNetwork, rows: list[Row]
) -> table_format.PartRef | None:
    if not rows:
        return None
    identity = {"network": task.network.digest, "fit": task.fit_digest}
    whole = table_format.part_table(
        rows, task.settings.keep or network.spec.latent, task.settings.storage_type, identity
    )
    return table_format.write_part(store, task.folder, whole)


def _commit(
    task: FitTask, rows: list[Row], quarantined: list[Quarantined], part: table_format.PartRef | None
) -> Commit:
    quality = np.array([row.psnr for row in rows], np.float64)
    return Commit(
        split=task.work.split,
        shard=task.work.shard.sha256,
        start=task.work.start,
        stop=task.work.stop,
        rows=len(rows),
        part=part,
        quarantined=tuple(quarantined),
        below_min=sum(row.below_min for row in rows),
        psnr_sum=float(quality.sum()),
        psnr_squares=float(np.square(quality).sum()),
    )
