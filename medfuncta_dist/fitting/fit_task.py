"""The fit task: one range of one shard, from verified bytes to a committed part. Self-contained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest

import numpy as np
import pyarrow as pa
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
from medfuncta_dist.fitting.fit_rows import Columns, ColumnsComing, Described, rows_of
from medfuncta_dist.fitting.latent_ledger import Commit, Quarantined
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.curved.curved_fitter import CurvedFitter
from medfuncta_dist.latents.curved.stored_tables import OpenTables, open_tables
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.table_format import Rows
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
    tables: str | None = None
    """The digest of the tables of curved latents; None for other types, and for a trial, which stores nothing."""

    @property
    def name(self) -> str:
        """The range's name."""
        return self.work.name


@dataclass(frozen=True)
class Fitted:
    """The result of a task: the number of scans with a latent, and whether another copy had already committed them."""

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
    tables: list[pa.Table] = []
    quarantined: list[Quarantined] = []
    unsolved: list[int] = []
    with closing(SampleReader(store, [task.work.shard], cache)) as reader:
        verify_shard(cache, task.work.shard, reader)
        with closing(one_ahead(sent_batches(task, reader))) as batches:
            # The results of a batch are read, and its table is made, when the next one has been launched.
            for places, coming in one_behind(launched(task, batches)):
                rows, refused, left = _rows(task, places, coming.wait())
                tables.append(_table(task, network, rows))
                quarantined += refused
                unsolved += left
    # One chunk: the pages of a Parquet file, and with them its bytes, follow the chunks.
    table = pa.concat_tables(tables).combine_chunks()
    part = table_format.write_part(store, task.folder, table) if table.num_rows else None
    if earlier := _committed(store, task):
        return earlier
    latent_ledger.write_commit(
        store, task.folder, task.work, _commit(task, table, quarantined, part, unsolved), task.fence
    )
    return Fitted(table.num_rows, halved=_fitter(task).halved)


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


Place = Described | Quarantined | None
"""A scan of a batch: read, quarantined, or (None) outside the range."""


@dataclass(frozen=True)
class Batch:
    """A batch's scans in their places, and what to fit. Of unusable scans, those of other ranges and the padding,
    ``targets`` has zeros: shapes never depend on them."""

    places: list[Place]
    targets: Float[np.ndarray, "batch point channel"]


Launched = tuple[list[Place], ColumnsComing]
"""A batch that is being fitted. Its values are no longer needed here."""


def sent_batches(task: FitTask, reader: SampleReader) -> Iterator[tuple[list[Place], Arriving]]:
    """The range's batches, each read, decoded and sent to the device: for a thread to do meanwhile."""
    sender = Sender.to(task.worker.device)
    channels = network_here(task.worker.root, task.network, task.worker.device).spec.channels

    def sent() -> Iterator[tuple[list[Place], Arriving]]:
        for batch in _batches(task, reader, (channels, *task.shape)):
            yield batch.places, sender.send(batch.targets)

    return sent()


def launched(task: FitTask, batches: Iterable[tuple[list[Place], Arriving]]) -> Iterator[Launched]:
    """Fit one batch after the other; on a GPU without waiting for any."""
    fitter = _fitter(task)
    for places, values in batches:
        coming = ColumnsComing(fitter.fit(values.take()), task.settings.storage_type)
        del values  # before the next one is asked for: two batches of values are in memory, not three
        yield places, coming


def _batches(task: FitTask, reader: SampleReader, shape: tuple[int, ...]) -> Iterator[Batch]:
    """The range's scans in the shard's batches, which begin at its first row: a scan's place, and with it its bits, do
    not depend on how ranges are cut or divided."""
    # A shard smaller than a batch has a batch of its own size: its length is as fixed as its content.
    work, size = task.work, min(task.batch, task.work.shard.samples)
    for start in range(work.start - work.start % task.batch, work.stop, task.batch):
        yield _batch(reader, range(start, min(start + task.batch, work.stop)), work.start, size, shape)


def _batch(reader: SampleReader, rows: range, first: int, size: int, shape: tuple[int, ...]) -> Batch:
    """The scans of ``rows``, from row ``first`` on, as a batch of ``size``."""
    keys = reader.keys(0)
    targets = np.empty((size, math.prod(shape[1:]), shape[0]), np.float32)
    places: list[Place] = []
    for row, target in zip_longest(rows, targets):
        read = None if row is None or row < first else read_scan(reader, 0, row, keys[row], shape)
        if isinstance(read, Sample):
            read.fill(target)
            places.append(Described(read.key, read.meta))
        else:
            target[...] = 0
            places.append(read)
    return Batch(places, targets)


def read_scan(reader: SampleReader, shard: int, row: int, key: str, shape: tuple[int, ...]) -> Sample | Quarantined:
    """One scan; quarantined where it is not readable, or not of ``shape`` (channel, spatial axes)."""
    try:
        members = reader.read(SampleId(shard, row))
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
    """The network, ready to fit; created once per process. Curved latents are fitted in float32."""
    network = network_here(worker.root, ref, worker.device)
    coordinates = grid(shape, device=worker.device)
    if settings.storage_type == "curved":
        settings = replace(settings, storage_type="float32")
    return new_fitter(network.spec, network.params, coordinates, settings, network.extras, learned_rates)


@lru_cache(maxsize=KEPT)
def _curved_here(
    worker: WorkerSettings,
    ref: NetworkRef,
    shape: tuple[int, ...],
    settings: FitSettings,
    learned_rates: bool,
    folder: str,
    tables: str,
) -> CurvedFitter:
    """The same with the tables of curved latents."""
    opened = open_tables(ObjectStore(worker.root), folder, tables)
    return CurvedFitter(fitter_here(worker, ref, shape, settings, learned_rates), opened.tables, worker.device)


def _fitter(task: FitTask) -> Fitter:
    made_of = (task.worker, task.network, task.shape, task.settings, task.learned_rates)
    return fitter_here(*made_of) if task.tables is None else _curved_here(*made_of, task.folder, task.tables)


def _tables(task: FitTask) -> OpenTables | None:
    return None if task.tables is None else open_tables(ObjectStore(task.worker.root), task.folder, task.tables)


def _rows(task: FitTask, places: list[Place], columns: Columns) -> tuple[Rows, list[Quarantined], list[int]]:
    """What a fitted batch adds to the table: each of its scans is a row, or is quarantined. Last: the unsolved steps of
    the rows' scans that have any."""
    reasons = columns.reasons
    kept: dict[int, Described] = {}
    quarantined: list[Quarantined] = []
    for i, place in enumerate(places):
        if isinstance(place, Quarantined):
            quarantined.append(place)
        elif place is not None and i in reasons:
            quarantined.append(Quarantined(place.key, reasons[i]))
        elif place is not None:
            kept[i] = place
    unsolved = columns.unsolved.tolist()
    rows = rows_of(task.work.split, columns, kept, task.min_psnr)
    return rows, quarantined, [unsolved[i] for i in kept if unsolved[i]]


def _table(task: FitTask, network: SharedNetwork, rows: Rows) -> pa.Table:
    identity = {"network": task.network.digest, "fit": task.fit_digest, **_precision(task)}
    width, units = task.settings.keep or network.spec.latent, _units(task)
    return table_format.part_table(rows, width, task.settings.storage_type, identity, units, _tables(task))


def _precision(task: FitTask) -> dict[str, str]:
    """Of a part that a GPU made: a CPU has no choice, and its parts keep the bytes that they always had."""
    arithmetic = task.settings.arithmetic
    on_gpu = task.worker.device.type == "cuda"
    return {"precision": arithmetic.precision} if on_gpu and arithmetic is not None else {}


def _units(task: FitTask) -> Float[np.ndarray, " latent"] | None:
    """Those that the fitter rounds by: the network's, so all parts of a table have the same."""
    units = _fitter(task).units
    return None if units is None else units.cpu().numpy()


def _commit(
    task: FitTask,
    table: pa.Table,
    quarantined: list[Quarantined],
    part: table_format.PartRef | None,
    unsolved: list[int],
) -> Commit:
    quality = table["psnr"].to_numpy().astype(np.float64)
    return Commit(
        split=task.work.split,
        shard=task.work.shard.sha256,
        start=task.work.start,
        stop=task.work.stop,
        rows=table.num_rows,
        part=part,
        quarantined=tuple(quarantined),
        below_min=int(table["below_min"].to_numpy().sum()),
        psnr_sum=float(quality.sum()),
        psnr_squares=float(np.square(quality).sum()),
        unsolved_steps=sum(unsolved),
        unsolved_scans=len(unsolved),
    )
