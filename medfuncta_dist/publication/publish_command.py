"""The command ``publish``: from what the owner asks for to what is done and said."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.publication.publication_driver import Publication, Wanted, publish_run
from medfuncta_dist.telemetry.progress_bar import ProgressBar


def run_publish(run: RunFile, target: str, wanted: Wanted, acknowledged: str | None) -> dict[str, Any]:
    """Publish, with a progress bar; the figures of the command."""
    with ProgressBar("publish") as bar:
        done = publish_run(run, target, wanted, acknowledged, bar.show)
    return _figures(done, wanted)


def _figures(done: Publication, wanted: Wanted) -> dict[str, Any]:
    splits = {split.name: {"scans": split.scans, "psnr": split.mean, "flagged": split.flagged} for split in done.splits}
    return {
        "target": done.target,
        "splits": splits,
        "files": [file.path for file in done.files],
        "left_out": done.left_out,
        "ids": str(done.ids),
        "said": _lines(done, wanted),
    }


def _lines(done: Publication, wanted: Wanted) -> list[str]:
    counts = ", ".join(f"{split.scans} {split.name} ({split.mean:.2f} dB)" for split in done.splits)
    lines = [f"publish: {counts} in {len(done.files)} files: {done.target}"]
    if done.left_out:
        lines.append(f"left out: {done.left_out} scans of files that may name or show the patient")
    if wanted.columns.keys:
        lines.append("ids are keys: whoever has the salt can link each row to its file")
    if not wanted.columns.labels:
        lines.append("labels are not published (--labels keeps them)")
    return [
        *lines,
        f"which row is which scan: {done.ids}. Keep it: `forget` cannot reach what is published, and only this list "
        "tells which rows to withdraw",
        "look at README.md and at some decoded scans before you give it away",
    ]
