"""The command ``fingerprint``: an archive → a sample of its files and DICOM series → tasks → one fingerprint. Nothing
is written to storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medfuncta_dist.archive.survey import OnSurvey
from medfuncta_dist.config.load import load, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fingerprint.drawn_sources import DrawnSource, draw_sources
from medfuncta_dist.fingerprint.fingerprint_task import FingerprintTask, SourcesRead, fingerprint_task
from medfuncta_dist.fingerprint.fingerprint_text import lines_of
from medfuncta_dist.fingerprint.scan_facts import ScanFacts
from medfuncta_dist.fingerprint.smallest_ranks import Sample
from medfuncta_dist.fingerprint.summary import Reading, fingerprint_of
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.scratch import scratch_folder
from medfuncta_dist.task_map import Failed, FanOut, map_divided, may_be_the_items_fault
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

STAGE = "fingerprint"
PER_TASK = 8
"""Sources: few, so that workers end together; a source often holds one scan."""
RUN_FILES = (".yaml", ".yml")


def fingerprint_command(what: str, overrides: Sequence[str], scans: int, out: Path | None) -> dict[str, Any]:
    """The answer of the command. ``what``: a run file, or a path, glob or s3:// URI of scans."""
    run = load(what, list(overrides)) if what.endswith(RUN_FILES) else _run_of(what, overrides)
    with ProgressBar(STAGE) as bar:
        found = fingerprint(run.data, scans, cpu_fan_out(run), bar.show)
    lines = lines_of(found)
    if out is not None:
        with replacing(out) as part:
            part.write_bytes(canonical_json(found) + b"\n")
        lines += ["", f"written to {out}"]
    return {**found, "said": lines}


def _run_of(source: str, overrides: Sequence[str]) -> RunFile:
    """A run file for these scans; only its data and cluster sections are used."""
    text = canonical_json({"name": "fingerprint", "storage": "none", "data": {"source": source, "shape": [2]}}).decode()
    return parse(text, list(overrides))


def fingerprint(data: Data, scans: int, fan_out: FanOut, on_progress: OnProgress = ignore_progress) -> dict[str, Any]:
    """The fingerprint of the sources that ``data`` names, from at most ``scans`` scans in at most as many sources.

    Raises RunFileError where there are no sources, or no usable scan in those that were read; StorageError.
    """
    with scratch_folder("fingerprint") as folder:
        drawn, archive = draw_sources(data, scans, Path(folder), _of_headers(on_progress))
    sample, reading = Sample[ScanFacts](scans), Reading(archive)
    on_progress(ProgressReport(STAGE, 0, len(drawn)))
    for outcome in map_divided(fan_out, fingerprint_task, _tasks(drawn, data, scans), _one_source_each):
        read = _lost(outcome) if isinstance(outcome, Failed) else outcome.result
        sample.add(read.drawn)
        reading = reading.and_also(read.sources, read.series, read.scans, read.reasons)
        on_progress(ProgressReport(STAGE, reading.sources, len(drawn), {"scans": reading.scans}))
    if not len(sample):
        listed = "; ".join(f"{n} x {reason}" for reason, n in reading.reasons.most_common(3))
        what = f"no scan could be read in {reading.sources} sources" + (f": {listed}" if listed else "")
        of_series = ", and what data.series says of uneven ones" if archive.series else ""
        raise RunFileError(what, where="data", do=f"check data.source and data.reader{of_series}")
    return fingerprint_of(reading, [drawn.what for drawn in sample])


def _tasks(drawn: Sequence[DrawnSource], data: Data, scans: int) -> list[FingerprintTask]:
    """Sources of one compressed tar are in few tasks: each task that needs it decompresses it."""
    solid = [min((p.archive for p in one.source.places if p.solid), default="") for one in drawn]
    ordered = [one for _, one in sorted(zip(solid, drawn, strict=True), key=lambda pair: pair[0])]
    rule = data.series if isinstance(data.series, Series) else Series()
    return [
        FingerprintTask(tuple(ordered[start : start + PER_TASK]), data.reader, scans, rule)
        for start in range(0, len(ordered), PER_TASK)
    ]


def _of_headers(on_progress: OnProgress) -> OnSurvey:
    def on_survey(done: int, total: int) -> None:
        on_progress(ProgressReport(STAGE, 0, total, {"reading": f"headers, {done} of {total}"}))

    return on_survey


def _one_source_each(failed: Failed) -> list[FingerprintTask]:
    """One task per source of one that failed. Raises errors of other causes than a source."""
    if not may_be_the_items_fault(failed.error):
        raise failed.error
    task: FingerprintTask = failed.item
    if len(task.sources) == 1:
        return []
    return [replace(task, sources=(source,)) for source in task.sources]


def _lost(failed: Failed) -> SourcesRead:
    series = sum(drawn.scans != "of the file" for drawn in failed.item.sources)
    return SourcesRead([], 1, series, 0, Counter({f"reading it failed: {type(failed.error).__name__}": 1}))
