"""The import task: one range of files of the public code, as one committed part of the latent table. Self-contained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from medfuncta_dist.errors import IntegrityError, ObjectMissingError, ScanError
from medfuncta_dist.exchange.compared_scans import Comparison, KnownScan, compare
from medfuncta_dist.exchange.latent_file import LARGEST_FILE, MIXED, UNUSED, PublicLatent, parse_latent
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.fit_rows import NOT_FINITE, NOT_STORABLE, flat
from medfuncta_dist.fitting.latent_ledger import Commit, Quarantined
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.latent_types import StorageType
from medfuncta_dist.latents.latent_types import store as store_as
from medfuncta_dist.latents.table_format import PartRef, Rows
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.network.network_loader import network_here
from medfuncta_dist.scans.label_check import risk_of_values
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.ordered_reads import read_in_order
from medfuncta_dist.storage.publish import Guard
from medfuncta_dist.streaming.worker_settings import WorkerSettings

READERS = 8
"""Files read at a time: latency, not bandwidth, bounds small files in S3."""
LABEL_FORM = "label_form"
"""Key of a part's metadata: how the files held their labels, so that export can write them so again."""
ORIGIN = {"origin": "imported"}
"""Metadata of parts that no fit made."""
NO_FILE = f"{UNUSED}the folder has none for this scan"
GONE = f"{UNUSED}it is gone"
TOO_LARGE = f"{UNUSED}it is larger than {LARGEST_FILE // 2**20} MiB"
NO_SCAN: dict[str, Any] = {"affine": None, "modality": "OT", "slice": None, "window": [0.0, 1.0]}
"""What is known of a scan that is not there: its values are those that the network gives."""


@dataclass(frozen=True)
class ImportTask:
    """All that a worker needs. ``keys`` and ``files`` have one entry for each row of the range."""

    worker: WorkerSettings
    source: str
    """The folder of the public code's files: local, or in S3."""
    files: tuple[str | None, ...]
    """Paths below it; None where it has none for the scan."""
    keys: tuple[str, ...]
    work: FitWork
    has_scans: bool
    """Whether the range is one of packed scans, which PSNR is measured on."""
    folder: str
    """Of the latent table."""
    network: NetworkRef
    storage_type: StorageType
    fit_digest: str
    min_psnr: float
    identifying_labels: str
    fence: Guard

    @property
    def name(self) -> str:
        """The range's name."""
        return self.work.name


@dataclass(frozen=True)
class ImportedRange:
    """The result of a task: how many files have become rows."""

    rows: int


Outcomes = dict[int, PublicLatent | str]
"""By row of the range: what its file holds, or why it is quarantined."""


def import_task(task: ImportTask) -> ImportedRange:
    """Import one range: its part, then its commit record. What cannot be used is quarantined, by key and reason."""
    store, cache = task.worker.open()
    earlier = latent_ledger.read_commit(store, task.folder, task.work, task.fence)
    if earlier is not None:
        return ImportedRange(earlier.rows)
    network = network_here(task.worker.root, task.network, task.worker.device)
    outcomes = _read_files(task, network.spec.latent)
    scans: dict[int, KnownScan | str]
    if task.has_scans:
        among = Comparison(store, cache, task.work, network, task.storage_type)
        scans = compare(among, _usable(outcomes))
        outcomes |= {row: reason for row, reason in scans.items() if isinstance(reason, str)}
    else:
        unknown = KnownScan(NO_SCAN | {"spacing": [1.0] * network.spec.coords}, math.nan)
        scans = dict.fromkeys(outcomes, unknown)
    table = _table(task, network.spec.latent, outcomes, scans)
    part = table_format.write_part(store, task.folder, table) if table.num_rows else None
    latent_ledger.write_commit(store, task.folder, task.work, _commit(task, table, outcomes, part), task.fence)
    return ImportedRange(table.num_rows)


def _usable(outcomes: Outcomes) -> dict[int, PublicLatent]:
    return {row: outcome for row, outcome in outcomes.items() if not isinstance(outcome, str)}


def _read_files(task: ImportTask, size: int) -> Outcomes:
    """What each file holds. A few files' bytes are in memory at a time, not the range's."""
    place = ObjectStore(task.source)
    found = read_in_order(lambda path: _bytes(place, path), task.files, READERS)
    return {row: data if isinstance(data, str) else _parsed(task, data, size) for row, data in enumerate(found)}


def _bytes(place: ObjectStore, path: str | None) -> bytes | str:
    if path is None:
        return NO_FILE
    try:
        return place.read(path, limit=LARGEST_FILE)
    except ObjectMissingError:
        return GONE
    except IntegrityError:  # before it is read
        return TOO_LARGE


def _parsed(task: ImportTask, data: bytes, size: int) -> PublicLatent | str:
    try:
        latent = parse_latent(data, size)
    except ScanError as error:
        return f"{UNUSED}{error.what}"
    if not np.isfinite(latent.numbers).all():
        return f"{UNUSED}{NOT_FINITE}"
    if task.storage_type == "float16" and float(np.abs(latent.numbers).max()) > float(np.finfo(np.float16).max):
        return f"{UNUSED}{NOT_STORABLE}"
    risk = risk_of_values(latent.labels) if task.identifying_labels != "keep" else None
    if risk is not None and task.identifying_labels == "refuse":
        return f"{UNUSED}{risk}"
    return latent if risk is None else replace(latent, labels=[])


def _table(task: ImportTask, size: int, outcomes: Outcomes, scans: Mapping[int, KnownScan | str]) -> pa.Table:
    """The usable rows, in their order."""
    kept = _usable(outcomes)
    known = [scan for row in kept if not isinstance(scan := scans[row], str)]
    identity = {"network": task.network.digest, "fit": task.fit_digest, **ORIGIN}
    if forms := {latent.form.to_text() for latent in kept.values()}:
        identity[LABEL_FORM] = forms.pop() if len(forms) == 1 else MIXED
    numbers = np.array([latent.numbers for latent in kept.values()], np.float32).reshape(-1, size)
    stored = store_as(torch.from_numpy(numbers), task.storage_type)
    quality = np.array([scan.psnr for scan in known], np.float32)
    rows = Rows(
        split=task.work.split,
        keys=[task.keys[row] for row in kept],
        labels=[one.labels or scan.meta.get("labels", []) for one, scan in zip(kept.values(), known, strict=True)],
        latents=stored.numbers.numpy(),
        scales=None if stored.scales is None else stored.scales.numpy(),
        psnr=quality,
        below_min=quality.astype(np.float64) < task.min_psnr,  # false where it is not known
        steps=np.zeros(len(kept), np.int32),
        windows=[scan.meta["window"] for scan in known],
        spacings=[scan.meta["spacing"] for scan in known],
        affines=[flat(scan.meta["affine"]) for scan in known],
        modalities=[scan.meta["modality"] for scan in known],
        slices=[scan.meta["slice"] for scan in known],
    )
    return table_format.part_table(rows, size, task.storage_type, identity)


def _commit(task: ImportTask, table: pa.Table, outcomes: Outcomes, part: PartRef | None) -> Commit:
    quality = table["psnr"].to_numpy().astype(np.float64)
    measured = quality[np.isfinite(quality)]
    refused = [(row, outcome) for row, outcome in outcomes.items() if isinstance(outcome, str)]
    return Commit(
        split=task.work.split,
        shard=task.work.shard.sha256,
        start=task.work.start,
        stop=task.work.stop,
        rows=table.num_rows,
        part=part,
        quarantined=tuple(Quarantined(task.keys[row], reason) for row, reason in refused),
        below_min=int(table["below_min"].to_numpy().sum()),
        psnr_sum=float(measured.sum()),
        psnr_squares=float(np.square(measured).sum()),
        unmeasured=len(quality) - len(measured),
    )
