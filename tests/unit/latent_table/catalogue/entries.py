"""Rows of a catalogue that never was a table's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from medfuncta_dist.latent_table.catalogue.catalogue_format import SCHEMA


def rows_of(keys: list[str]) -> pa.Table:
    """A row for each key; what else it holds follows from its place."""
    places = np.arange(len(keys), dtype=np.int32)
    columns = [keys, ["train"] * len(keys), [[int(p) % 3] for p in places], places.astype(np.float32)]
    return pa.table([*columns, places % 2 == 0, places // 7, places % 7], schema=SCHEMA)


def random_keys(count: int, seed: int = 0) -> list[str]:
    text = np.random.default_rng(seed).bytes(32 * count).hex()
    return [text[64 * n : 64 * (n + 1)] for n in range(count)]
