"""From rows of the latent table to rows that are published. Pure, but for the random ids.

Columns: ``id``, ``labels`` where the owner keeps them, ``latent`` as stored, for int8 ``scale``, ``psnr`` (dB),
``below_min``, and of the others those that the owner names (``NAMED``). Keys and affines are never among them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.label_check import risk_of_columns, risk_of_values

FORMAT_VERSION = "1"
KIND = "published latents"
ID_BYTES = 16
"""Of a random id: as many as nobody can guess, or draw twice."""
DIGITS = 3
"""Significant digits of spacings and windows. Enough to measure by; in full, such numbers tell the scanner and the
examination to whoever has a list of them."""
NAMED = {
    "spacing": ("spacing",),
    "window": ("window_low", "window_high"),
    "modality": ("modality",),
    "slice": ("slice",),
    "steps": ("steps",),
}
"""What ``--with`` may name, and the columns that it stands for."""
ROUNDED = {"spacing", "window_low", "window_high"}


@dataclass(frozen=True)
class Columns:
    """What is published of a row beside id, latent and PSNR."""

    labels: bool = False
    keys: bool = False
    """The id is the scan's key, which the owner's salt can link to the file."""
    named: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.named) - NAMED.keys()):
            what = f"{', '.join(unknown)} cannot be published"
            raise RunFileError(what, where="--with", do=f"name some of: {', '.join(NAMED)}")

    @property
    def read(self) -> list[str]:
        """The columns of the table that are needed."""
        named = [column for name in NAMED if name in self.named for column in NAMED[name]]
        return ["key", *(["labels"] if self.labels else []), "latent", "psnr", "below_min", *named]


def published(rows: pa.Table, columns: Columns) -> pa.Table:
    """The rows to publish, in the order given, each under its id."""
    ids = rows["key"] if columns.keys else pa.array(random_ids(rows.num_rows))
    names = [name for name in rows.column_names if name != "key"]
    arrays = [_rounded(rows[name]) if name in ROUNDED else rows[name] for name in names]
    table = pa.Table.from_arrays([ids, *arrays], names=["id", *names])
    return table.replace_schema_metadata({"format_version": FORMAT_VERSION, "kind": KIND})


def random_ids(count: int) -> list[str]:
    """So many ids of 32 hex digits, from the system's random numbers: nothing leads from one to a scan."""
    digits = secrets.token_bytes(ID_BYTES * count).hex()
    return [digits[i : i + 2 * ID_BYTES] for i in range(0, len(digits), 2 * ID_BYTES)]


def require_plain_labels(labels: Sequence[pa.ChunkedArray]) -> None:
    """RunFileError where the labels of all scans together look like identifiers."""
    columns: list[np.ndarray] = []
    for part in labels:
        lengths = pc.unique(pc.list_value_length(part)).to_pylist()
        flat = part.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        risk = risk_of_values(np.unique(flat).tolist())
        if risk is not None:
            raise _identifying(risk)
        if len(lengths) == 1 and lengths[0]:
            columns.append(flat.reshape(-1, lengths[0]))
    if columns and len({column.shape[1] for column in columns}) == 1:
        risk = risk_of_columns(np.concatenate(columns))
        if risk is not None:
            raise _identifying(risk)


def _identifying(risk: str) -> RunFileError:
    do = "leave --labels out; or set data.identifying_labels: keep, if you have looked at them and may publish them"
    return RunFileError(risk, where="--labels", do=do)


def _rounded(column: pa.ChunkedArray) -> pa.Array:
    """Numbers, or lists of them, to ``DIGITS`` significant digits."""
    whole = column.combine_chunks()
    if not pa.types.is_list(whole.type):
        return pa.array(_significant(whole.to_numpy()))
    values = pa.array(_significant(whole.flatten().to_numpy()))
    lengths = pc.list_value_length(whole).to_numpy()
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)


def _significant(values: np.ndarray) -> np.ndarray:
    return np.array([float(f"{value:.{DIGITS}g}") for value in values])
