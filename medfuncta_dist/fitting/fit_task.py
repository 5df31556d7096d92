"""The fit task: one range of one shard, from verified bytes to a committed part. Self-contained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

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
from medfuncta_dist.fitting.batch_transfer import Arriving, Sender, one_behind
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_rows import DAMAGED_SAMPLE, WRONG_SHAPE, ColumnsComing, Described, Place
from medfuncta_dist.fitting.latent_ledger import Quarantined
from medfuncta_dist.fitting.patched.patch_parts import PatchParts
from medfuncta_dist.fitting.patched.patch_source import PatchSource
from medfuncta_dist.fitting.patched.shard_units import GridSettings
from medfuncta_dist.fitting.scan_parts import ScanParts, TableKind
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.network.network_loader import KEPT, network_here
from medfuncta_dist.shards.sample import Sample, decode
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.streaming.prefetch import one_ahead
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.worker_settings import WorkerSettings


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
    grids: GridSettings | None = None
    """Where a scan is a grid of patches of ``shape``."""

    @property
    def name(self) -> str:
        """The range's name."""
        return self.work.name


@dataclass(frozen=True)
class Fitted:
    """The result of a task: the number of units with a latent, and whether another copy had already committed them."""

    rows: int
    earlier: bool = False
    halved: bool = False
    """Whether memory ran out in this task's process, which goes on with half the chunks."""


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
    parts = _parts(task, network)
    with closing(SampleReader(store, [task.work.shard], cache)) as reader:
        verify_shard(cache, task.work.shard, reader)
        with closing(one_ahead(sent_batches(task, reader))) as batches:
            # The results of a batch are read, and its table is made, when the next one has been launched.
            for places, coming in one_behind(launched(task, batches)):
                parts.add(places, coming.wait())
    commit = parts.commit(store, task.folder)
    if earlier := _committed(store, task):
        return earlier
    latent_ledger.write_commit(store, task.folder, task.work, commit, task.fence)
    return Fitted(commit.rows, halved=_fitter(task).halved)


def verify_shard(cache: ShardCache, shard: Shard, reader: SampleReader) -> None:
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


@dataclass(frozen=True)
class Batch:
    """A batch's units in their places, and what to fit. Of unusable ones, those of other ranges and the padding,
    ``targets`` has zeros: shapes never depend on them."""

    places: list[Place]
    targets: Float[np.ndarray, "batch point channel"]
    weights: Float[np.ndarray, "batch point"] | None
    """How much each point counts; None where all count alike."""


Launched = tuple[list[Place], ColumnsComing]
"""A batch that is being fitted. Its values are no longer needed here."""


class Sent(NamedTuple):
    """A batch on its way to the device."""

    places: list[Place]
    targets: Arriving
    weights: Arriving | None


def sent_batches(task: FitTask, reader: SampleReader) -> Iterator[Sent]:
    """The range's batches, each read, decoded and sent to the device: for a thread to do meanwhile."""
    sender = Sender.to(task.worker.device)
    channels = network_here(task.worker.root, task.network, task.worker.device).spec.channels

    def sent() -> Iterator[Sent]:
        for batch in _batches(task, reader, (channels, *task.shape)):
            weights = None if batch.weights is None else sender.send(batch.weights)
            yield Sent(batch.places, sender.send(batch.targets), weights)

    return sent()


def launched(task: FitTask, batches: Iterable[Sent]) -> Iterator[Launched]:
    """Fit one batch after the other; on a GPU without waiting for any."""
    fitter = _fitter(task)
    for places, values, weights in batches:
        fitted = fitter.fit(values.take()) if weights is None else fitter.fit(values.take(), weights.take())
        coming = ColumnsComing(fitted, task.settings.storage_type)
        del values, weights  # before the next one is asked for: two batches of values are in memory, not three
        yield places, coming


class UnitSource(Protocol):
    """The units of a shard, in order."""

    def __len__(self) -> int: ...

    def fill(self, unit: int, target: Float[np.ndarray, "point channel"]) -> Place:
        """Read one unit into ``target``; of one that cannot be read, the values are left as they are."""
        ...

    def weights(self, units: range) -> Float[np.ndarray, "unit point"] | None:
        """How much each point of these units counts; None where all count alike. It depends on no value."""
        ...


def unit_source(task: FitTask, reader: SampleReader, channels: int) -> UnitSource:
    """The task's shard as what is fitted: its scans, or their patches."""
    if task.grids is not None:
        return PatchSource(reader, task.grids)
    return ScanSource(reader, (channels, *task.shape))


def _batches(task: FitTask, reader: SampleReader, shape: tuple[int, ...]) -> Iterator[Batch]:
    """The range's units in the shard's batches, which begin at its first one: a unit's place, and with it its bits, do
    not depend on how ranges are cut or divided."""
    work, source = task.work, unit_source(task, reader, shape[0])
    # A shard smaller than a batch has a batch of its own size: its length is as fixed as its content.
    size = min(task.batch, len(source))
    for start in range(work.start - work.start % task.batch, work.stop, task.batch):
        # Of all units of the batch, also those of other ranges: a weighted fit may have other bits than one without.
        weights = _weights(source, range(start, min(start + task.batch, len(source))), size)
        yield _batch(source, range(start, min(start + task.batch, work.stop)), work.start, size, shape, weights)


def _weights(source: UnitSource, units: range, size: int) -> Float[np.ndarray, "batch point"] | None:
    found = source.weights(units)
    return None if found is None else np.pad(found, ((0, size - len(found)), (0, 0)), constant_values=1)


def _batch(
    source: UnitSource,
    units: range,
    first: int,
    size: int,
    shape: tuple[int, ...],
    weights: Float[np.ndarray, "batch point"] | None,
) -> Batch:
    """The given units, from unit ``first`` on, as a batch of ``size``."""
    targets = np.empty((size, math.prod(shape[1:]), shape[0]), np.float32)
    places: list[Place] = []
    for unit, target in zip_longest(units, targets):
        place = None if unit is None or unit < first else source.fill(unit, target)
        if not isinstance(place, Described):
            target[...] = 0
        places.append(place)
    return Batch(places, targets, weights)


@dataclass(frozen=True)
class ScanSource:
    """The scans of the first shard of a reader, each of ``shape`` (channel, spatial axes)."""

    reader: SampleReader
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.reader.keys(0))

    def fill(self, unit: int, target: Float[np.ndarray, "point channel"]) -> Place:
        """Read one scan into ``target``."""
        read = _read(self.reader, unit, self.reader.keys(0)[unit], self.shape)
        if isinstance(read, Quarantined):
            return read
        read.fill(target)
        return Described(read.key, read.meta)

    def weights(self, units: range) -> None:
        """All points count."""


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


def _fitter(task: FitTask) -> Fitter:
    return fitter_here(task.worker, task.network, task.shape, task.settings, task.learned_rates)


def _parts(task: FitTask, network: SharedNetwork) -> ScanParts | PatchParts:
    identity = {"network": task.network.digest, "fit": task.fit_digest, **_precision(task)}
    width, storage_type = task.settings.keep or network.spec.latent, task.settings.storage_type
    kind = TableKind(width, storage_type, _units(task), task.min_psnr, identity)
    return ScanParts(task.work, kind) if task.grids is None else PatchParts(task.work, kind, task.grids)


def _precision(task: FitTask) -> dict[str, str]:
    """Of a part that a GPU made: a CPU has no choice, and its parts keep the bytes that they always had."""
    arithmetic = task.settings.arithmetic
    on_gpu = task.worker.device.type == "cuda"
    return {"precision": arithmetic.precision} if on_gpu and arithmetic is not None else {}


def _units(task: FitTask) -> Float[np.ndarray, " latent"] | None:
    """Those that the fitter rounds by: the network's, so all parts of a table have the same."""
    units = _fitter(task).units
    return None if units is None else units.cpu().numpy()
