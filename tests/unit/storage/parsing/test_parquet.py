from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.parsing import parquet

TABLE = pa.table({"key": ["a", "b", "c"], "n": [1, 2, 3]})


def written(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def test_what_is_written_is_read() -> None:
    file = parquet.open_parquet(written(TABLE), "here", row_bytes=100, rows=3)
    assert parquet.read(file, "here").equals(TABLE)
    assert parquet.read(file, "here", ["n"]).column_names == ["n"]


@pytest.mark.parametrize("damaged", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", written(TABLE)[:-1], b"\xff" * 100])
def test_what_is_no_parquet_is_refused(damaged: bytes) -> None:
    with pytest.raises(IntegrityError, match="not a Parquet file") as caught:
        parquet.open_parquet(damaged, "here", row_bytes=100)
    assert caught.value.where == "here"
    assert caught.value.do


def test_what_becomes_too_much_is_refused_unread() -> None:
    data = written(pa.table({"n": np.zeros(2**20)}))
    assert len(data) < 10**5
    with pytest.raises(IntegrityError, match="of 1048576 rows, expected 3"):
        parquet.open_parquet(data, "here", row_bytes=100, rows=3)
    text = written(pa.table({"key": [str(i) + "x" * 10**6 for i in range(8)]}))
    with pytest.raises(IntegrityError, match="that decompresses to 8"):
        parquet.open_parquet(text, "here", row_bytes=100)


def test_damage_behind_a_whole_footer_is_told() -> None:
    data = bytearray(written(TABLE))
    refused = 0
    for at in range(4, 120):
        damaged = data.copy()
        damaged[at] ^= 0xFF
        try:
            parquet.read(parquet.open_parquet(bytes(damaged), "here", row_bytes=100, rows=3), "here")
        except IntegrityError as error:
            refused += bool(error.do)
    assert refused > 50


EVERY_BIT_OF_THE_FOOTER = """
import sys
from contextlib import suppress
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.parsing import parquet

data = open(sys.argv[1], "rb").read()
footer = int.from_bytes(data[-8:-4], "little")
for bit in range(8 * footer):
    damaged = bytearray(data)
    damaged[len(data) - 8 - footer + bit // 8] ^= 1 << bit % 8
    with suppress(IntegrityError):
        parquet.read(parquet.open_parquet(bytes(damaged), "here", row_bytes=100, rows=3), "here")
"""


def test_no_bit_of_a_footer_ends_the_process(tmp_path: Path) -> None:
    """In a process of its own: what pyarrow does not catch aborts it."""
    whole = tmp_path / "whole.parquet"
    whole.write_bytes(written(TABLE))
    done = subprocess.run([sys.executable, "-c", EVERY_BIT_OF_THE_FOOTER, str(whole)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
