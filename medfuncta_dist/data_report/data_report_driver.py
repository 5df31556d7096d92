"""The command ``data-report``: a snapshot's shards, indexes and quarantine → data-report.html and data-report.json.

The archive is not read, so it can be made at any time. Both files are written on this machine, outside the storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.data_report.archive_counts import archive_counts
from medfuncta_dist.data_report.data_page import Shown, render
from medfuncta_dist.data_report.equal_samples import equal_samples
from medfuncta_dist.data_report.report_content import Check, content_of
from medfuncta_dist.data_report.shard_tally import ShardTask, tally_shard
from medfuncta_dist.data_report.tally import ModalityTally, Place
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.report_style.owner_file import local_folder, write_owner_file
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.scans.private.private_folder import private_folder
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.shards.split_patients import split_patients
from medfuncta_dist.stages import run_summary
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.shard_cache import cache_folder
from medfuncta_dist.task_map import Failed, FanOut
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress
from medfuncta_dist.version import __version__

STAGE = "data-report"
FOLDER = "data-report"
MEASURED = 2048
"""Scans whose values are counted, about: percentages are then within 3."""
EXIT_LEAK = 4
"""An integrity failure."""


def data_report_command(run: RunFile, out: str | None, pictures: int) -> dict[str, Any]:
    """The answer of the command."""
    folder = report_folder(run, out)
    with ProgressBar(STAGE) as bar:
        content = write_data_report(run, folder, cpu_fan_out(run), pictures, bar.show)
    return answer_of(content, folder)


def answer_of(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the command prints, and its exit code where a patient is on both sides although no split was given."""
    failed = content["check"]["state"] == Check.FAILED
    return {**content, "said": _said(content, folder)} | ({"exit_code": EXIT_LEAK} if failed else {})


def report_folder(run: RunFile, out: str | None) -> Path:
    """Where the report goes: the folder that was named, or one in the owner's; RunFileError inside the storage."""
    if out is None:
        return private_folder(run.data.private, run.dataset, run.storage) / FOLDER
    return local_folder(out, run.storage)


def write_data_report(
    run: RunFile, folder: Path, fan_out: FanOut, pictures: int, on_progress: OnProgress = ignore_progress
) -> dict[str, Any]:
    """Write both files; returns what the JSON file holds. ``pictures``: scans to show of each modality.

    Raises StageOrderError where nothing was packed, IntegrityError where a shard, an index or a sample is damaged.
    """
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    tallies = _tallies(run, snapshot, fan_out, pictures, on_progress)
    content = content_of(
        snapshot,
        tallies,
        split_patients(store, snapshot),
        equal_samples(store, snapshot),
        _look_alikes(store, run, snapshot),
        archive_counts(private_folder(run.data.private, run.dataset, run.storage)),
    )
    places = [place for name in content["modalities"] for place in sorted(tallies[name].places)]
    page = render(content, tallies, _shown(run, places), __version__)
    write_owner_file(folder / "data-report.json", canonical_json(content) + b"\n")
    write_owner_file(folder / "data-report.html", page.encode())
    return content


def _tallies(
    run: RunFile, snapshot: Snapshot, fan_out: FanOut, pictures: int, on_progress: OnProgress
) -> dict[str, ModalityTally]:
    shards = [(split, shard) for split in sorted(snapshot.splits) for shard in snapshot.splits[split]]
    cache = str(cache_folder(run.cluster.cache)), int(run.cluster.cache_gigabytes * 2**30)
    share = min(1.0, MEASURED / max(snapshot.samples, 1))
    tasks = [ShardTask(run.storage, *cache, split, shard, share, pictures) for split, shard in shards]
    found: dict[str, ModalityTally] = {}
    on_progress(ProgressReport(STAGE, 0, len(tasks)))
    for done, outcome in enumerate(fan_out(tally_shard, tasks), 1):
        if isinstance(outcome, Failed):
            raise outcome.error
        for modality, tally in outcome.result.items():
            found.setdefault(modality, ModalityTally()).add(tally, pictures)
        on_progress(ProgressReport(STAGE, done, len(tasks)))
    return found


def _shown(run: RunFile, places: list[Place]) -> list[Shown]:
    if not places:
        return []
    store, cache = ShardTask(
        run.storage,
        str(cache_folder(run.cluster.cache)),
        int(run.cluster.cache_gigabytes * 2**30),
        "",
        places[0].shard,
        0.0,
        0,
    ).open()
    samples = read_samples(store, cache, [Pick(place.shard, place.row) for place in places])
    return [Shown(sample, place.split) for sample, place in zip(samples, places, strict=True)]


def _look_alikes(store: ObjectStore, run: RunFile, snapshot: Snapshot) -> dict[str, Any] | None:
    """What the pack stage counted on this snapshot, where it did."""
    try:
        packed = run_summary.load(store, run.name).get("pack") or {}
    except MedfunctaError:
        return None
    found = packed.get("look_alikes")
    return found if packed.get("snapshot") == snapshot.digest and isinstance(found, dict) else None


def _said(content: Mapping[str, Any], folder: Path) -> list[str]:
    counts, equal = content["counts"], content["equal_samples"]
    splits = ", ".join(f"{split['scans']} {name}" for name, split in content["splits"].items())
    modalities = ", ".join(f"{found['scans']} {name}" for name, found in content["modalities"].items())
    lost = counts["quarantined"] + counts["sources_quarantined"]
    state = content["check"]["state"]
    return [
        f"data report: {counts['packed']} scans ({splits}; {modalities}), {lost} quarantined",
        f"leakage between splits: {'' if state == Check.PASSED else f'{state.upper()}: '}{content['check']['text']}",
        f"copies: {equal['copies']} scans equal an earlier one, {equal['across_splits']} in several splits",
        f"written to {folder / 'data-report.html'} (with pictures of scans) and data-report.json",
    ]
