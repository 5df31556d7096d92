"""Published runs, and what is read of them, for the tests of this package."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.publication.privacy_gate import ACKNOWLEDGEMENT
from medfuncta_dist.publication.publication_driver import Publication, Wanted, publish_run
from medfuncta_dist.publication.published_rows import Columns
from medfuncta_dist.publication.statement import Statement

STATEMENT = Statement(licence="cc-by-4.0", intended_use="Research on representations.", labels="0: no, 1: yes")
OTHERS = ("medfuncta_dist", "ray", "deepspeed", "scipy", "sklearn")
"""What a reader of a publication need not have."""
WITHOUT = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OTHERS!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, ".")
"""


def publish(run: RunFile, target: Path | str, *, file_bytes: int = 2**28, **asked: Any) -> Publication:
    """Publish, acknowledged; ``asked``: fields of ``Columns`` and ``Wanted``."""
    columns = Columns(**{name: asked.pop(name) for name in ("labels", "keys", "named") if name in asked})
    statement = asked.pop("statement", STATEMENT)
    return publish_run(run, str(target), Wanted(statement, columns, file_bytes=file_bytes, **asked), ACKNOWLEDGEMENT)


def rows_of(folder: Path, split: str | None = None) -> pa.Table:
    """All published rows, or those of a split, in order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(f"data/{split or '*'}-*.parquet"))])


def keys_by_id(publication: Publication) -> dict[str, str]:
    """The owner's list."""
    with publication.ids.open(newline="") as file:
        return dict(row for row in list(csv.reader(file))[5:])


def elsewhere(folder: Path, code: str) -> str:
    """What a program prints that runs in the folder, where this package cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
