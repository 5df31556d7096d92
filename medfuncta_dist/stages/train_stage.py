"""The train stage: the shared network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.run.settle_arithmetic import record_halving
from medfuncta_dist.run.stage_progress import open_reporter
from medfuncta_dist.stages.preflight import pinned_snapshot
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.training.mailbox import HALVED
from medfuncta_dist.training.train_driver import OnMessage
from medfuncta_dist.training.trainer import TrainSummary, train


def run_train(run: RunFile, store: ObjectStore, fence: Fence, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Train, or go on training, on the run's snapshot."""
    snapshot = pinned_snapshot(run, store, fence)
    with open_reporter(run, store, "train", fence, stages) as reporter:
        listen = _recorder_of_halvings(run, store, fence)
        summary = train(
            run,
            snapshot.digest,
            on_message=listen,
            on_progress=reporter.report,
            notify=reporter.notify,
            limit_reached=reporter.limit_reached,
            fence=fence,
        )
    return {**asdict(summary), "snapshot": snapshot.digest, "said": [_summary_text(summary)]}


def _recorder_of_halvings(run: RunFile, store: ObjectStore, fence: Fence) -> OnMessage:
    def listen(kind: str, fields: dict[str, Any]) -> None:
        if kind == HALVED:
            record_halving(run, store, fence)

    return listen


def _summary_text(summary: TrainSummary) -> str:
    psnr = "" if summary.psnr is None else f", held-out PSNR {summary.psnr:.2f} dB"
    began = "" if summary.first_step == 0 else f" (this time from step {summary.first_step})"
    start = "" if summary.started_from is None else f", started from {summary.started_from[:12]}"
    return f"train: {summary.steps} outer steps{began}{psnr}; network {summary.network_digest[:12]}{start}"
