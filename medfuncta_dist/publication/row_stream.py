"""The rows on their way from the table's parts to published files, and what is known of them afterwards."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.latents.table_units import Units, read_units
from medfuncta_dist.publication.checked_table import CheckedTable
from medfuncta_dist.publication.data_card import SplitFacts
from medfuncta_dist.publication.published_rows import Columns, published, require_plain_labels
from medfuncta_dist.publication.shuffled_files import FILE_BYTES, PublishedFile, ShuffledFiles
from medfuncta_dist.scans.private.published_ids import IdList
from medfuncta_dist.storage.scratch import scratch_folder
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport

ROW_BYTES = 64
"""Of a row beside its latent, about."""


class RowStream:
    """Publishes the rows of a table. Of each scan, key, PSNR and labels stay in memory: about 50 bytes."""

    def __init__(self, table: CheckedTable, columns: Columns, ids: IdList, on_progress: OnProgress) -> None:
        self._table, self._columns, self._ids, self._on_progress = table, columns, ids, on_progress
        self._keys: list[np.ndarray] = []
        self._labels: list[pa.ChunkedArray] = []
        self._psnr: dict[str, list[np.ndarray]] = defaultdict(list)
        self._below: dict[str, list[np.ndarray]] = defaultdict(list)
        self.storage = Storage("float32", 0)
        """How latents are stored; known once rows are written."""
        self.units: Units | None = None
        self.left_out = 0

    def save(self, staged: Path, file_bytes: int = FILE_BYTES) -> list[PublishedFile]:
        """Write the Parquet files below ``staged``, of about ``file_bytes`` each.

        Raises:
            IntegrityError: a part is not what was committed; a scan is there twice, or is quarantined or forgotten.
            RunFileError: labels look like identifiers.
        """
        counts: Counter[str] = Counter()
        for commit in self._table.commits:
            counts[commit.split] += commit.rows
        row_bytes = 4 * self._table.network.spec.latent + ROW_BYTES
        with scratch_folder("publish") as aside, ShuffledFiles(aside, counts, row_bytes, file_bytes) as shuffled:
            self._read(shuffled, counts.total())
            self._require_different()
            if self._columns.labels and self._table.run.data.identifying_labels != "keep":
                require_plain_labels(self._labels)
            return self._sort(shuffled, staged, counts.total())

    def facts(self) -> list[SplitFacts]:
        """What is published of each split."""
        return [
            SplitFacts.of(split, np.concatenate(self._psnr[split]), np.concatenate(self._below[split]))
            for split in sorted(self._psnr)
        ]

    def require_not_forgotten(self, forgotten: frozenset[str]) -> None:
        """IntegrityError where one of the scans was forgotten while they were read."""
        gone = np.array([bytes.fromhex(key) for key in forgotten], self._keys[0].dtype)
        if np.isin(np.concatenate(self._keys), gone).any():
            raise IntegrityError(
                "scans were forgotten while this was written: nothing is published", do="publish again"
            )

    def _read(self, shuffled: ShuffledFiles, total: int) -> None:
        done = 0
        for commit, rows in self._table.parts(self._columns.read):
            self.storage = table_format.storage_of(rows)
            self.units = read_units(rows.schema.metadata, self.storage.numbers)
            rows = self._may_leave(rows)
            if rows.num_rows:
                self._note(commit.split, rows)
                table = published(rows, self._columns)
                self._ids.add(table["id"].to_pylist(), rows["key"].to_pylist())
                shuffled.add(commit.split, table)
            done += commit.rows
            self._on_progress(ProgressReport("publish", done, 2 * total, {"pass": "reading"}))

    def _sort(self, shuffled: ShuffledFiles, staged: Path, total: int) -> list[PublishedFile]:
        written = []
        done = total + self.left_out
        for file in shuffled.save(staged):
            written.append(file)
            done += file.rows
            self._on_progress(ProgressReport("publish", done, 2 * total, {"pass": "sorting"}))
        return written

    def _may_leave(self, rows: pa.Table) -> pa.Table:
        """The rows without the scans that may name their patient."""
        keys, never = rows["key"].to_pylist(), self._table.never
        never.require_none(keys)
        stay = np.array([key in never.released for key in keys])
        self.left_out += int(stay.sum())
        return rows.filter(pa.array(~stay))

    def _note(self, split: str, rows: pa.Table) -> None:
        digits = bytes.fromhex("".join(rows["key"].to_pylist()))
        self._keys.append(np.frombuffer(digits, f"S{len(digits) // rows.num_rows}"))
        self._psnr[split].append(rows["psnr"].to_numpy())
        self._below[split].append(rows["below_min"].to_numpy())
        if self._columns.labels:
            self._labels.append(rows["labels"])

    def _require_different(self) -> None:
        if not self._keys:
            raise RunFileError("no scan is left to publish", do="look at what --leave-out-burned-in leaves out")
        keys = np.concatenate(self._keys)
        if repeated := len(keys) - len(np.unique(keys)):
            raise IntegrityError(
                f"{repeated} keys occur more than once in the latent table: nothing is published",
                do="run `verify`: two shards of the data set may hold the same scan",
            )
