"""What evaluation has stored of a run, for whoever comes later: scores of every scan, and their summary."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError, StageOrderError
from medfuncta_dist.evaluation import report_summary
from medfuncta_dist.evaluation.fitted_table import FittedTable
from medfuncta_dist.evaluation.score_task import FORMAT_VERSION, MASKED_SCHEMA, MASKED_VERSION, SCHEMA
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet, strict_json

LARGEST_SCORES = 2**32
"""Bytes of ``metrics.parquet``: some 150 for each scan."""
LARGEST_ROW = 2**16
"""Bytes of a scan's scores, decompressed: a few hundred, and its labels."""
LARGEST_SUMMARY = 2**26
"""Bytes: a few thousand, and some hundred for each combination of labels."""

NEEDED = {
    "split",
    "latents",
    "counts",
    "dataset",
    "network",
    "quarantine_reasons",
    "splits",
    "labels",
    "baselines",
    "note",
}
"""What every version has written into a summary."""
ANEW = "run the evaluate stage again"


def report_folder(run: str) -> str:
    """Where the stage writes, relative to the storage root."""
    return f"runs/{run}/report"


def current_scores(fitted: FittedTable, run: str) -> tuple[dict[str, Any], pa.Table]:
    """Summary and scores of a run's latents. StageOrderError where none are stored, or they are of other latents."""
    summary = read_summary(fitted.store, run)
    if summary["latents"] != fitted.target.folder or summary["counts"] != asdict(fitted.counts):
        where = fitted.store.uri(fitted.target.folder)
        raise StageOrderError("the latents are not those that were evaluated", where=where, do=ANEW)
    return summary, read_scores(fitted.store, run)


def read_summary(store: ObjectStore, run: str) -> dict[str, Any]:
    """``summary.json`` of a run's report. StageOrderError where there is none."""
    path = f"{report_folder(run)}/summary.json"
    summary = strict_json.parse_object(_read(store, path, LARGEST_SUMMARY), "a report's summary", store.uri(path), ANEW)
    require_version(summary.get("format_version"), report_summary.FORMAT_VERSION, store.uri(path))
    if missing := NEEDED - summary.keys():
        raise IntegrityError(f"a report's summary lacks {', '.join(sorted(missing))}", where=store.uri(path), do=ANEW)
    return summary


def read_scores(store: ObjectStore, run: str) -> pa.Table:
    """``metrics.parquet`` of a run: a row per fitted scan, sorted by key. StageOrderError where there is none."""
    path = f"{report_folder(run)}/metrics.parquet"
    file = parquet.open_parquet(_read(store, path, LARGEST_SCORES), store.uri(path), row_bytes=LARGEST_ROW)
    found = (file.schema_arrow.metadata or {}).get(b"format_version", b"").decode(errors="replace")
    require_version(found if found != MASKED_VERSION else FORMAT_VERSION, FORMAT_VERSION, store.uri(path))
    if not any(file.schema_arrow.equals(one) for one in (SCHEMA, MASKED_SCHEMA)):
        raise IntegrityError("scores with other columns than expected", where=store.uri(path), do=ANEW)
    return parquet.read(file, store.uri(path))


def require_version(found: Any, known: Any, where: str) -> None:
    """FormatVersionError for a version that this one does not read."""
    if found != known:
        raise FormatVersionError(
            f"format_version {found!r} is not one that this version reads",
            where=where,
            do=ANEW,
        )


def _read(store: ObjectStore, path: str, limit: int) -> bytes:
    try:
        return store.read(path, limit=limit)
    except ObjectMissingError as error:
        raise StageOrderError(
            "this run has not been evaluated", where=store.uri(path), do="run the evaluate stage first"
        ) from error
