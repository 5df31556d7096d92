"""The command ``compare``: two evaluated runs → comparison.html and comparison.json, on this machine.

Both are written outside the storage: the page shows scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.comparison.compared_run import ComparedRun
from medfuncta_dist.evaluation.comparison.comparison_content import content_of
from medfuncta_dist.evaluation.comparison.comparison_page import ComparedPicture, render
from medfuncta_dist.evaluation.comparison.paired_scores import PairedScores, clusters_of, pair
from medfuncta_dist.evaluation.comparison.settings_difference import differing_settings
from medfuncta_dist.evaluation.report_driver import pictures_of
from medfuncta_dist.report_style.owner_file import local_folder, write_owner_file
from medfuncta_dist.scans.private.private_folder import private_folder
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

STAGE = "compare"
FOLDER = "comparisons"
LISTED = 10
"""Scans in the answer of those that lose and gain most, where fewer are pictured."""
STEPS = 4


def compare_command(a: RunFile, b: RunFile, split: str | None, out: str | None, pictures: int) -> dict[str, Any]:
    """The answer of the command."""
    folder = comparison_folder(a, b, out)
    with ProgressBar(STAGE) as bar:
        content = write_comparison(a, b, folder, split or a.evaluate.split, pictures, bar.show)
    return {**content, "said": said(content, folder)}


def comparison_folder(a: RunFile, b: RunFile, out: str | None) -> Path:
    """Where both files go: the folder that was named, or one in the first run's private folder."""
    if out is not None:
        return local_folder(out, a.storage, b.storage)
    return private_folder(a.data.private, a.dataset, a.storage) / FOLDER / f"{a.name}-{b.name}"


def write_comparison(
    a: RunFile, b: RunFile, folder: Path, split: str, pictures: int, on_progress: OnProgress = ignore_progress
) -> dict[str, Any]:
    """Write both files; returns what the JSON file holds. ``pictures``: scans to show of the losers and the gainers.

    Raises StageOrderError where a run has not been evaluated, RunFileError where they share no scan of the split, or
    their scans have not as many axes.
    """
    if (a.storage, a.name) == (b.storage, b.name):
        raise RunFileError("both run files are of the same run", where="RUN_B.yaml", do="name two runs")
    runs = []
    for done, run in enumerate((a, b), 1):
        runs.append(ComparedRun.open(run))
        on_progress(ProgressReport(STAGE, done, STEPS))
    facts = {name: run.facts() for name, run in zip("ab", runs, strict=True)}
    _require_same_axes(facts)
    pairs = pair(runs[0].scores, runs[1].scores, split)
    if not pairs.a.num_rows:
        raise _nothing_in_common(runs, split)
    patients = runs[0].patients(set(pairs.a["shard"].to_pylist()))
    clusters = clusters_of(pairs.a["key"].to_pylist(), patients)
    settings = differing_settings(a, b)
    content = content_of(facts, pairs, split, clusters, patients is not None, settings, max(LISTED, pictures))
    on_progress(ProgressReport(STAGE, 3, STEPS))
    shown = {name: _pictures(runs, pairs, content[name][:pictures]) for name in ("losers", "gainers")}
    page = render(content, shown)
    write_owner_file(folder / "comparison.json", canonical_json(content) + b"\n")
    write_owner_file(folder / "comparison.html", page.encode())
    on_progress(ProgressReport(STAGE, STEPS, STEPS))
    return content


def _pictures(
    runs: Sequence[ComparedRun], pairs: PairedScores, scans: Sequence[Mapping[str, Any]]
) -> list[ComparedPicture]:
    if not scans:
        return []
    keys = [scan["key"] for scan in scans]
    of_a, of_b = (
        list(pictures_of(run.fitted, _rows_of(rows, keys))) for run, rows in zip(runs, (pairs.a, pairs.b), strict=True)
    )
    return [ComparedPicture(*both) for both in zip(of_a, of_b, strict=True)]


def _rows_of(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    return rows.take(pc.index_in(pa.array(keys), rows["key"].combine_chunks()))


def _require_same_axes(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """RunFileError where one run has curves and the other pictures, or volumes: no number of one is one of the other,
    and no page shows both."""
    a, b = (len(facts[name]["shape"]) for name in "ab")
    if a != b:
        raise RunFileError(
            f"the scans of run {facts['a']['name']} have {a} axes, those of run {facts['b']['name']} {b}",
            where="data.shape",
            do="compare runs whose scans have as many axes",
        )


def _nothing_in_common(runs: Sequence[ComparedRun], split: str) -> RunFileError:
    splits = set(runs[0].scores["split"].to_pylist()) & set(runs[1].scores["split"].to_pylist())
    if split not in splits:
        told = ", ".join(sorted(splits)) or "none"
        return RunFileError(f"not both runs have scans of split '{split}'", where="--split", do=f"both have: {told}")
    return RunFileError(
        f"the two runs have no scan of split '{split}' in common",
        where="RUN_B.yaml",
        do="compare runs whose data sets were packed with the same salt: only then a scan has the same key in both",
    )


def said(content: Mapping[str, Any], folder: Path) -> list[str]:
    """The answer as lines for people."""
    runs, psnr = content["runs"], content["psnr"]
    patients = "" if content["patients"] is None else f" of {content['patients']} patients"
    lines = [
        f"compare: a = {runs['a']['name']}, b = {runs['b']['name']}; {content['pairs']} scans{patients} "
        f"of split {content['split']} in both ({content['only_a']} only in a, {content['only_b']} only in b)",
        f"  PSNR   {psnr['a']:.2f} → {psnr['b']:.2f} dB: {_change(psnr)}; better in {psnr['better']:.0%} of scans",
    ]
    if ssim := content["ssim"]:
        lines.append(f"  SSIM   {ssim['a']:.3f} → {ssim['b']:.3f}")
    lines += [f"  label {name}: {row['scans']} scans, {_change(row)}" for name, row in content["labels"].items()][
        :LISTED
    ]
    sizes = (
        f"{run['latent']['numbers']} × {run['latent']['type']} = {run['latent']['bytes']} bytes"
        for run in runs.values()
    )
    lines.append(f"  latent {' → '.join(sizes)}")
    lines += [f"  {row['key']}: {row['a']} → {row['b']}" for row in content["settings"]]
    lines += [f"  note: {note}" for note in content["notes"]]
    lines += [
        f"  loses most: {scan['key'][:12]} {scan['difference']:+.2f} dB"
        for scan in content["losers"][:3]
        if scan["difference"] < 0
    ]
    return [*lines, f"written to {folder / 'comparison.html'} (with pictures of scans) and comparison.json"]


def _change(row: Mapping[str, Any]) -> str:
    between = "" if row["low"] is None else f" ({row['low']:+.2f} to {row['high']:+.2f})"
    return f"{row['difference']:+.2f} dB{between}"
