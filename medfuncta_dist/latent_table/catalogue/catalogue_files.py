"""Writes sorted rows as a catalogue's files on this machine: equal rows give equal files, however they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.latent_table.catalogue.catalogue_format import FILE_ROWS, FOLDER, ROW_GROUP, SCHEMA, CatalogueFile
from medfuncta_dist.storage.digest import sha256_bytes, sha256_file

ENDING = 8
"""Bytes after a Parquet footer: its length, and "PAR1"."""


def write_files(tables: Iterable[pa.Table], folder: Path, schema: pa.Schema = SCHEMA) -> list[CatalogueFile]:
    """Write ``<folder>/catalogue/<sha256>.parquet`` files. IntegrityError when a key occurs twice."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    groups = _groups(_checked(tables))
    return [_write(chain([group], islice(groups, FILE_ROWS // ROW_GROUP - 1)), folder, schema) for group in groups]


def _write(groups: Iterable[pa.Table], folder: Path, schema: pa.Schema) -> CatalogueFile:
    rows, firsts, new = 0, [], folder / FOLDER / "new"
    # A dictionary of keys would only be a second copy; the record has the groups' first keys.
    options = {"use_dictionary": ["split"], "compression": "ZSTD", "write_statistics": False}
    with pq.ParquetWriter(new, schema, **options) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=ROW_GROUP)
            rows += group.num_rows
            firsts.append(group["key"][0].as_py())
    digest, size = sha256_file(new), new.stat().st_size
    footer, digests = _footer(new, size), tuple(_group_digests(new))
    new.replace(folder / FOLDER / f"{digest}.parquet")
    path = f"{FOLDER}/{digest}.parquet"
    return CatalogueFile(path, digest, size, rows, len(footer), sha256_bytes(footer), tuple(firsts), digests)


def span(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Where a row group's bytes are: its columns lie one after the other."""
    columns = [group.column(number) for number in range(group.num_columns)]
    start = min(c.dictionary_page_offset or c.data_page_offset for c in columns)
    return start, start + sum(c.total_compressed_size for c in columns)


def _group_digests(file: Path) -> Iterator[str]:
    metadata = pq.read_metadata(file)
    with file.open("rb") as opened:
        for number in range(metadata.num_row_groups):
            start, stop = span(metadata.row_group(number))
            opened.seek(start)
            yield sha256_bytes(opened.read(stop - start))


def _footer(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(size - ENDING)
        length = int.from_bytes(opened.read(4), "little") + ENDING
        opened.seek(size - length)
        return opened.read()


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of one chunk and ``ROW_GROUP`` rows, but for the last: a file's bytes follow them."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        whole = pa.concat_tables(waiting)
        full = whole.num_rows - whole.num_rows % ROW_GROUP
        yield from (whole.slice(start, ROW_GROUP).combine_chunks() for start in range(0, full, ROW_GROUP))
        waiting = [whole.slice(full)]
    if waiting and waiting[0].num_rows:
        yield waiting[0].combine_chunks()


def _checked(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same tables, whose keys rise strictly. Equal keys are in the same table."""
    for table in tables:
        keys = table["key"].combine_chunks()
        repeated = pc.sum(pc.equal(keys[1:], keys[:-1])).as_py() or 0
        if repeated:
            raise IntegrityError(
                f"{repeated} keys occur more than once in the latent table",
                do="run `verify`: two shards of the data set may hold the same scan",
            )
        yield table
