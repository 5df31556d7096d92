"""Sorts more rows than fit into memory: sorted runs on disk, merged between the same keys of all of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

RUN_ROWS = 2**18
"""Rows of a run, and about as many of a merged piece: some 40 MB."""
STRIDE = 2**10
"""Every so many rows of a run, a key says how the keys are spread."""


class SortedRuns:
    """Rows in any order in, sorted by ``key`` out. Only one run, and what is being merged, are in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._runs: list[pa.Table] = []
        self._keys: list[str] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows in; writes a run when there are enough of them."""
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= RUN_ROWS:
            self._spill()

    def merged(self) -> Iterator[pa.Table]:
        """All rows, sorted, in tables of about ``RUN_ROWS``; equal keys are in the same table."""
        self._spill()
        edges = sorted(self._keys)[RUN_ROWS // STRIDE :: RUN_ROWS // STRIDE]
        starts = [0] * len(self._runs)
        for edge in [*dict.fromkeys(edges), None]:
            stops = [_place(run, edge) for run in self._runs]
            pieces = [r.slice(a, b - a) for r, a, b in zip(self._runs, starts, stops, strict=True) if b > a]
            if pieces:
                yield pa.concat_tables(pieces).sort_by("key").combine_chunks()
            starts = stops

    def _spill(self) -> None:
        if not self._waiting_rows:
            return
        run = pa.concat_tables(self._waiting).sort_by("key").combine_chunks()
        self._waiting, self._waiting_rows = [], 0
        path = str(self._folder / f"run-{len(self._runs)}.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, run.schema) as writer:
            writer.write_table(run)
        self._keys += run["key"][STRIDE - 1 :: STRIDE].to_pylist() if run.num_rows >= STRIDE else []
        with pa.ipc.open_file(pa.memory_map(path)) as mapped:
            self._runs.append(mapped.read_all())


def _place(run: pa.Table, edge: str | None) -> int:
    """The first row of a run whose key is not below ``edge``; all of them for None."""
    if edge is None:
        return int(run.num_rows)
    keys = run["key"]
    return bisect_left(range(run.num_rows), edge, key=lambda row: keys[row].as_py())
