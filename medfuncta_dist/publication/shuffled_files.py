"""Rows by split, sorted by id, in Parquet files of bounded size, from a stream of any length in bounded memory.

Ids are spread evenly, random ones as well as keys. So the file of a row follows from its id: rows are first put aside
in a file per part of the ids' range, and each of these is then sorted by itself. The order of the table, which tells
which scans were packed together, is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FILE_BYTES = 2**28
"""Of latents in a file: a few seconds of a download, and three times as much memory while it is sorted."""
MOST_FILES = 512
"""Open at a time; more rows make larger files."""
ROW_GROUP = 1024
BEGINNING = 8
"""Hex digits of an id that choose its file."""


@dataclass(frozen=True)
class PublishedFile:
    """A file that is written: its split, its path below the publication's folder, and its rows."""

    split: str
    path: str
    rows: int


class ShuffledFiles:
    """``with ShuffledFiles(aside, {"train": 60_000, "test": 4_000}, row_bytes) as files: files.add(split, table)``"""

    def __init__(self, aside: Path, rows: Mapping[str, int], row_bytes: int, file_bytes: int = FILE_BYTES) -> None:
        """``aside``: a folder for temporary files, with room for all rows. ``rows``: so many are expected of a split,
        ``row_bytes`` each."""
        total = sum(rows.values()) * row_bytes
        largest = max(file_bytes, -(-total // MOST_FILES))
        self._aside = aside
        self._files = {split: max(1, round(count * row_bytes / largest)) for split, count in rows.items()}
        self._writers: dict[tuple[str, int], pa.RecordBatchFileWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> ShuffledFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, split: str, table: pa.Table) -> None:
        """Put rows aside."""
        beginnings = [int(one[:BEGINNING], 16) for one in table["id"].to_pylist()]
        numbers = np.array(beginnings, np.int64) * self._files[split] >> 4 * BEGINNING
        for number in np.unique(numbers):
            rows = table.filter(pa.array(numbers == number))
            self._writer(split, int(number), table.schema).write_table(rows)

    def save(self, folder: Path) -> Iterator[PublishedFile]:
        """Sort what was put aside into ``data/<split>-<number>-of-<files>.parquet`` below ``folder``, file by file."""
        self._stack.close()
        (folder / "data").mkdir(parents=True)
        written: dict[str, int] = {}
        counts = {split: sum(one == split for one, _ in self._writers) for split in self._files}
        for split, number in sorted(self._writers):
            aside = self._path(split, number)
            with pa.memory_map(str(aside)) as source:
                rows = pa.ipc.open_file(source).read_all()
                rows = rows.take(pc.sort_indices(rows["id"])).combine_chunks()
            index = written.setdefault(split, 0)
            written[split] += 1
            path = f"data/{split}-{index:05d}-of-{counts[split]:05d}.parquet"
            pq.write_table(rows, folder / path, row_group_size=ROW_GROUP, use_dictionary=False, compression="ZSTD")
            aside.unlink()
            yield PublishedFile(split, path, rows.num_rows)

    def _path(self, split: str, number: int) -> Path:
        return self._aside / f"{split}-{number}.arrow"

    def _writer(self, split: str, number: int, schema: pa.Schema) -> pa.RecordBatchFileWriter:
        if (split, number) not in self._writers:
            sink = self._stack.enter_context(pa.OSFile(str(self._path(split, number)), "wb"))
            self._writers[split, number] = self._stack.enter_context(pa.ipc.new_file(sink, schema))
        return self._writers[split, number]
