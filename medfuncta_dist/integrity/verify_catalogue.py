"""Compares a latent table's catalogue with one that is made anew from its parts, and writes a damaged one again."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pyarrow as pa

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.integrity.verify_shards import Fault
from medfuncta_dist.latent_table.catalogue.catalogue_build import read_table
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_store import (
    Listed,
    built_anew,
    catalogue_objects,
    present_catalogue,
    shown_later,
    write_catalogue,
)
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, withdraw
from medfuncta_dist.storage.scratch import scratch_folder
from medfuncta_dist.telemetry.progress_bar import ProgressBar

MISSING, WHOLE, DAMAGED = "missing", "whole", "damaged"


def verify_catalogue(store: ObjectStore, folder: str, shards: set[str]) -> tuple[str, list[Fault]]:
    """``whole``, ``damaged`` with its faults, or ``missing``: there is none of the present latents, which is no fault.

    The parts must have been verified: the catalogue is compared with them, row by row.
    """
    listed = Listed.of(store, folder, shards)
    try:
        found = present_catalogue(listed)
        if found is None:
            return MISSING, []
        same = _is_of_these_parts(found, listed)
    except IntegrityError as error:
        return DAMAGED, [Fault(error.where, error.what)]
    return (
        (WHOLE, []) if same else (DAMAGED, [Fault(store.uri(found.path), "the catalogue is not that of these parts")])
    )


def _is_of_these_parts(found: Catalogue, listed: Listed) -> bool:
    """By rows, not by bytes: another version of the Parquet library writes others."""
    table = read_table(listed.store, listed.folder, listed.names, listed.shards)
    with scratch_folder("catalogue") as local, ProgressBar("catalogue") as bar:
        record = built_anew(listed.store, table, local, shown_later(bar))
        made = Catalogue(ObjectStore(str(local.parent)), local.name, record)
        facts = [(r.rows, r.storage, r.parts, [f.firsts for f in r.files]) for r in (found.record, record)]
        return facts[0] == facts[1] and all(map(_alike, found.tables(), made.tables()))


def _alike(one: pa.Table, two: pa.Table) -> bool:
    """Whether all rows are equal; an unknown PSNR is NaN, which is equal to no number."""
    rest = [table.drop_columns(["psnr"]) for table in (one, two)]
    same = np.array_equal(one["psnr"].to_numpy(), two["psnr"].to_numpy(), equal_nan=True)
    return same and bool(rest[0].equals(rest[1]))


def repair_catalogue(store: ObjectStore, folder: str, shards: set[str], fence: Guard) -> bool:
    """Where a table has catalogues, write that of its present latents; whether a damaged one was removed for it."""
    paths = catalogue_objects(store, folder)
    if not paths:
        return False
    damaged = False
    with suppress(FormatVersionError):
        damaged = verify_catalogue(store, folder, shards)[0] == DAMAGED
        for path in paths if damaged else ():
            withdraw(store, fence, path)
        write_catalogue(store, folder, shards, fence)
    return damaged
