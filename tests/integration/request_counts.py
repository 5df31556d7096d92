"""How many requests to S3 the stages send, on the real parts: the embedded server, with a counter before it.

python -m tests.integration.request_counts    writes benchmarks/results/request_counts.json, which scaling.py reads

What is counted is what one more of something costs: two runs of a stage that differ in that only, and their difference.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.run.driver_lease import RENEWALS_PER_TTL, hold_lease
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import FLUSH_S as EVENTS_S
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.progress_record import WRITE_S, ProgressRecorder
from medfuncta_dist.telemetry.progress_report import ProgressReport
from medfuncta_dist.telemetry.run_log.log_uploader import FLUSH_S as LOG_S
from medfuncta_dist.telemetry.run_log.log_uploader import LogUploader
from tests.counting_server import RequestCounts, counting
from tests.integration.training_runs import packed, run_file
from tests.unit.latents import fitted
from tests.unit.training.loops import trained
from tests.unit.training.ranks import on_ranks
from tests.writers import write_medmnist

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "request_counts.json"
BUCKET = "counts"
SHARDS, MORE_SHARDS = 2, 6
STEPS, MORE_STEPS = 10, 60
FASTER = 10
"""An idle minute is counted in six seconds, with all its periods divided by this."""

Counts = dict[str, float]


def per_unit(few: dict[str, int], many: dict[str, int], units: int) -> Counts:
    """What each further unit costs."""
    kinds = sorted({*few, *many})
    found = {kind: (many.get(kind, 0) - few.get(kind, 0)) / units for kind in kinds}
    return {kind: number for kind, number in found.items() if number}


def pack_and_fit(counts: RequestCounts, folder: Path, root: str, shards: int) -> tuple[dict[str, int], dict[str, int]]:
    """The requests of packing so many shards into a new data set, and of fitting them: a task per shard."""
    folder.mkdir()
    run = fitted.run_file(folder, root, fit={"scans_per_task": 8})
    (folder / "archive").mkdir()
    write_medmnist(folder / "archive" / "scans.npz", (12, 12), {"train": 8 * shards}, 0)
    counts.take()
    pack(run, map_here, lambda _: None)
    packing = counts.take()
    fitted.publish(run, fitted.network(run))
    counts.take()
    assert fit(run, map_here).counts.fitted == 8 * shards
    return packing, counts.take()


def of_shards(counts: RequestCounts, folder: Path) -> dict[str, Counts]:
    """A packed shard and a fitted one."""
    few, many = (pack_and_fit(counts, folder / str(n), f"s3://{BUCKET}/{n}", n) for n in (SHARDS, MORE_SHARDS))
    stages = zip(("a packed shard", "a fitted shard"), few, many, strict=True)
    return {name: per_unit(less, more, MORE_SHARDS - SHARDS) for name, less, more in stages}


def train_here(root: str, snapshot: str, steps: int, cache: str) -> dict[str, Any]:
    """On a rank: train for so many steps, log each, save after the last."""
    run = run_file(root, f"steps-{steps}", steps=steps, zero_stage=1)
    run = run.model_copy(update={"cluster": run.cluster.model_copy(update={"cache": cache})})
    # Events are written by time, not by step: within the seconds of this test, once at the end.
    with patch("medfuncta_dist.telemetry.event_log.FLUSH_S", 3600.0):
        return trained(run, snapshot)


def of_steps(counts: RequestCounts, folder: Path) -> dict[str, Counts]:
    """A training step."""
    root = f"s3://{BUCKET}/steps"
    snapshot, found = packed(root, folder), []
    for steps in (STEPS, MORE_STEPS):
        own = folder / f"steps-{steps}"
        own.mkdir()
        counts.take()
        [result] = on_ranks(1, train_here, root, snapshot, steps, str(own / "cache"), folder=own)
        assert len(result["steps"]) == steps
        found.append(counts.take())
    return {"a training step": per_unit(*found, MORE_STEPS - STEPS)}


def of_idle_minute(counts: RequestCounts) -> dict[str, Counts]:
    """A driver that waits for a step of its workers for a minute: its lease, its progress, its log and events."""
    store, ttl = ObjectStore(f"s3://{BUCKET}/idle"), 60.0
    with ExitStack() as stack:
        fence = stack.enter_context(hold_lease(store, run_lease("idle"), ttl / FASTER, "idle"))
        log = LogUploader(store, "idle", {}, print, flush_s=LOG_S / FASTER)
        stack.callback(log.close, "done")
        events = EventLog(store, "idle", "1", flush_s=EVENTS_S / FASTER)
        stack.callback(events.close)
        events.event("started")
        recorder = ProgressRecorder(store, "idle", "train", fence=fence, write_s=WRITE_S / FASTER)
        stack.enter_context(recorder)
        _report(recorder, 2 * ttl / FASTER / RENEWALS_PER_TTL)
        counts.take()
        _report(recorder, 60.0 / FASTER)
        return {"an idle minute": {kind: float(number) for kind, number in counts.take().items()}}


def _report(recorder: ProgressRecorder, seconds: float) -> None:
    """What a driver does that polls its workers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        recorder.record(ProgressReport("train", 1, 10))
        time.sleep(0.05)


@contextmanager
def counted_s3(folder: Path) -> Iterator[RequestCounts]:
    """The embedded server with a bucket for these measurements; ``os.environ`` leads to the counter before it."""
    with EmbeddedS3(folder / "s3") as server:
        server.create_bucket(BUCKET)
        with counting(server.endpoint) as counts:
            address = {**server.environment, "AWS_ENDPOINT_URL": counts.url}
            with patch.dict(os.environ, address):
                yield counts


def main() -> None:
    with tempfile.TemporaryDirectory() as name, counted_s3(Path(name)) as counts:
        found = of_shards(counts, Path(name)) | of_steps(counts, Path(name)) | of_idle_minute(counts)
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
