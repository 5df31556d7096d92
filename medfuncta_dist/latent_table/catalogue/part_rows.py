"""What a catalogue holds of a part: its narrow columns, by ranged reads, without its latents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from medfuncta_dist.errors import IntegrityError, LostObjectError, ObjectMissingError
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.latent_table.catalogue.catalogue_format import SCHEMA
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import FIT_AGAIN, LARGEST_ROW, PartRef, Storage
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet

COLUMNS = ["key", "split", "labels", "psnr", "below_min"]


class PartRows(NamedTuple):
    """A part's rows for the catalogue, without the number of the part, and how the part stores latents."""

    rows: pa.Table
    storage: Storage


def read_part_rows(store: ObjectStore, folder: str, commit: Commit) -> PartRows:
    """The rows of a commit's part: its footer and five columns are read, which is a few percent of it.

    IntegrityError where it is missing, is no part, or has another number of rows than its commit record says.
    """
    assert commit.part is not None
    part: PartRef = commit.part
    path = f"{folder}/{part.path}"
    where = store.uri(path)
    try:
        file = parquet.open_ranged(
            lambda start, length: store.read_range(path, start, length),
            part.size,
            where,
            row_bytes=LARGEST_ROW,
            rows=commit.rows,
        )
    except ObjectMissingError as error:
        what = "a part of the latent table is missing: a record names it"
        raise LostObjectError(what, where=where, do=FIT_AGAIN) from error
    table_format.check_schema(file.schema_arrow, where)
    return PartRows(parquet.read(file, where, COLUMNS), table_format.storage_of(file.schema_arrow))


def numbered(rows: pa.Table, part: int) -> pa.Table:
    """A part's rows as the catalogue has them."""
    places = pa.array(np.arange(rows.num_rows, dtype=np.int32))
    numbers = pa.array(np.full(rows.num_rows, part, np.int32))
    return pa.table([*(rows[name] for name in COLUMNS), numbers, places], schema=SCHEMA)


def require_alike(first: Storage | None, found: Storage) -> Storage:
    """IntegrityError where parts store latents in different ways."""
    if first is not None and first != found:
        raise IntegrityError(
            "the parts of the latent table store latents in different ways",
            do="delete this latent table's folder and run fit again",
        )
    return found
