"""The train stage: the shared network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.run.stage_progress import Told, recorded
from medfuncta_dist.stages.preflight import pinned_snapshot
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.training.trainer import TrainSummary, train


def run_train(run: RunFile, store: ObjectStore, fence: Fence, beside: Sequence[str] = ()) -> dict[str, Any]:
    """Train, or go on training, on the run's snapshot."""
    snapshot = pinned_snapshot(run, store, fence)
    with recorded(run, store, "train", "steps", fence, beside) as told:
        summary = train(run, snapshot.digest, partial(_hear, told, run.train.steps), fence=fence)
    return {**asdict(summary), "snapshot": snapshot.digest, "said": [_said(summary)]}


def _hear(told: Told, steps: int, kind: str, fields: dict[str, Any]) -> None:
    """What the workers' messages mean for the record."""
    recorder = told.recorder
    if kind == "started" and recorder.progress.samples:
        recorder.restarted()
    if kind == "checkpoint":
        recorder.note(checkpoint=time.time())
    figures = {name: fields[name] for name in ("loss", "psnr") if fields.get(name) is not None}
    if kind in ("started", "step", "finished", "validated"):
        told.at(fields["step"], steps, **figures)


def _said(summary: TrainSummary) -> str:
    psnr = "" if summary.psnr is None else f", held-out PSNR {summary.psnr:.2f} dB"
    began = "" if summary.first_step == 0 else f" (this time from step {summary.first_step})"
    return f"train: {summary.steps} outer steps{began}{psnr}; network {summary.network_digest[:12]}"
