"""The command ``fingerprint``: sources → a sample of them → tasks → one fingerprint. Nothing is written to storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medfuncta_dist.config.load import load, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fingerprint.drawn_scans import ScanSample, rank_of
from medfuncta_dist.fingerprint.fingerprint_task import FingerprintTask, SourcesRead, fingerprint_task
from medfuncta_dist.fingerprint.fingerprint_text import lines_of
from medfuncta_dist.fingerprint.summary import Reading, fingerprint_of
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.sources import Source, expand
from medfuncta_dist.task_map import Failed, FanOut, map_divided, may_be_the_items_fault
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

STAGE = "fingerprint"
PER_TASK = 8
"""Sources: few, so that workers end together; a file of an archive often holds one scan."""
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
    sources = _sources(data)
    chosen = sorted(sources, key=lambda source: rank_of(source.relative))[:scans]
    tasks = [
        FingerprintTask(tuple(chosen[start : start + PER_TASK]), data.reader, scans)
        for start in range(0, len(chosen), PER_TASK)
    ]
    sample, reasons, found, done = ScanSample(scans), Counter[str](), 0, 0
    on_progress(ProgressReport(STAGE, 0, len(chosen)))
    for outcome in map_divided(fan_out, fingerprint_task, tasks, _one_source_each):
        read = _lost(outcome) if isinstance(outcome, Failed) else outcome.result
        sample.add(read.drawn)
        reasons += read.reasons
        found, done = found + read.scans, done + read.sources
        on_progress(ProgressReport(STAGE, done, len(chosen), {"scans": found}))
    if not len(sample):
        listed = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3))
        what = f"no scan could be read in {done} sources" + (f": {listed}" if listed else "")
        raise RunFileError(what, where="data", do="check data.source and data.reader")
    return fingerprint_of(Reading(len(sources), done, found, reasons), [drawn.facts for drawn in sample])


def _sources(data: Data) -> list[Source]:
    if data.source is not None:
        return expand(data.source)
    if data.splits is not None:
        # The split is part of a name, as in packing: files of two splits often have the same one.
        return [
            replace(source, relative=f"{split}/{source.relative}")
            for split, patterns in sorted(data.splits.items())
            for source in expand(patterns)
        ]
    what = "the run file names a snapshot, but no scans"
    raise RunFileError(what, where="data", do="set data.source, or name a folder of scans")


def _one_source_each(failed: Failed) -> list[FingerprintTask]:
    """One task per source of one that failed. Raises errors of other causes than a source."""
    if not may_be_the_items_fault(failed.error):
        raise failed.error
    task: FingerprintTask = failed.item
    if len(task.sources) == 1:
        return []
    return [FingerprintTask((source,), task.reader, task.scans) for source in task.sources]


def _lost(failed: Failed) -> SourcesRead:
    return SourcesRead([], 1, 0, Counter({f"reading it failed: {type(failed.error).__name__}": 1}))
