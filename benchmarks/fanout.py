"""The driver's own cost: no-op tasks for 100 000 shards, and opening and planning a snapshot of 10 M scans.

fan-out   fanout.ray_fan_out on a local Ray, a window of 16 (eight GPUs, two tasks in flight on each); each item is a
          FitWork, as fitting sends it, and each task returns at once.
plan      a snapshot of 10 000 shards x 1000 scans, and commit records for half of them, in the embedded S3 server; a
          fresh process loads the snapshot, lists the records and plans. Peak memory is the whole process's.
resume    beside the claim: the same process then reads and verifies every record, as a fit that is resumed does before
          it plans, to know which ranges failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT, Claim, arguments, report

if TYPE_CHECKING:
    from medfuncta_dist.fitting.fit_plan import FitWork

SHARDS, SCANS_PER_SHARD, TASKS, WINDOW = 10_000, 1_000, 100_000, 16
DATASET, TABLE = "archive", "runs/archive/latents/network-fit"


def main() -> None:
    short, began = arguments(__doc__).short, time.perf_counter()
    shards, tasks = (100, 500) if short else (SHARDS, TASKS)
    planned, flown = measure_plan(shards), measure_fan_out(tasks)
    claims = [
        Claim("fan-out, ms a shard", flown["ms_per_shard"], 1.5, at_least=False),
        Claim("fan-out, growth of the driver's memory, MB", flown["driver_growth_mb"], 100, at_least=False),
        Claim("snapshot opened and planned, s", planned["seconds"], 10, at_least=False),
        Claim("the same, peak memory of the process, GB", planned["peak_gb"], 1, at_least=False),
    ]
    table = [
        {
            "part": "fan-out",
            "items": tasks,
            "seconds": flown["seconds"],
            "memory": f"+{flown['driver_growth_mb']:.1f} MB",
        },
        {"part": "open snapshot", "items": shards, "seconds": planned["open_seconds"], "memory": ""},
        {"part": "list commits", "items": shards // 2, "seconds": planned["list_seconds"], "memory": ""},
        {"part": "plan", "items": shards, "seconds": planned["plan_seconds"], "memory": f"{planned['peak_gb']:.3f} GB"},
        {
            "part": "resume: read records",
            "items": shards // 2,
            "seconds": planned["read_records_seconds"],
            "memory": f"{planned['peak_with_records_gb']:.3f} GB",
        },
    ]
    report("fanout", short, began, {"fan_out": flown, "plan": planned}, claims, table)


def nothing(item: Any) -> None:
    """What a task costs when it does nothing."""


def measure_fan_out(tasks: int) -> dict[str, Any]:
    """Seconds and memory of the driver; memory is read every hundredth of the way, after a tenth as warm-up."""
    import psutil
    import ray

    from medfuncta_dist.fanout import ray_fan_out
    from medfuncta_dist.fitting.fit_plan import FitWork

    if not ray.is_initialized():
        ray.init("local", include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    fan_out, driver = ray_fan_out(WINDOW, num_cpus=1), psutil.Process()
    works = [FitWork("train", shard(n), 0, SCANS_PER_SHARD) for n in range(tasks)]
    for _ in fan_out(nothing, works[: max(100, tasks // 50)]):
        pass
    memory, began, busy = [driver.memory_info().rss], time.perf_counter(), time.process_time()
    for n, _ in enumerate(fan_out(nothing, works), 1):
        if n % (tasks // 100) == 0:
            memory.append(driver.memory_info().rss)
    seconds = time.perf_counter() - began
    return {
        "tasks": tasks,
        "window": WINDOW,
        "seconds": seconds,
        "ms_per_shard": seconds / tasks * 1e3,
        "driver_cpu_ms_per_shard": (time.process_time() - busy) / tasks * 1e3,
        "driver_growth_mb": (max(memory) - memory[0]) / 1e6,
        "driver_growth_of_the_second_half_mb": (max(memory) - max(memory[: len(memory) // 2])) / 1e6,
    }


def measure_plan(shards: int) -> dict[str, Any]:
    """Write the archive's records, then open and plan in a process of its own."""
    from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3

    with tempfile.TemporaryDirectory() as folder, EmbeddedS3(Path(folder)) as s3:
        os.environ.update(s3.environment)
        s3.create_bucket("bench")
        write_records("s3://bench/root", shards)
        command = [sys.executable, "-m", "benchmarks.fanout", "open-and-plan", "s3://bench/root"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return dict(json.loads(answer))


def write_records(root: str, shards: int) -> None:
    """A committed snapshot, and a commit record for every second shard."""
    from medfuncta_dist.fitting.fit_plan import ranges
    from medfuncta_dist.fitting.latent_ledger import Commit, write_commit
    from medfuncta_dist.latents.table_format import PartRef
    from medfuncta_dist.shards.snapshot import Snapshot, commit_snapshot
    from medfuncta_dist.storage.object_store import ObjectStore
    from medfuncta_dist.storage.publish import ALONE

    store = ObjectStore(root)
    contract = {"shape": [64, 64], "channels": 1}
    snapshot = Snapshot(DATASET, None, contract, {"train": [shard(n) for n in range(shards)]}, generation=1)
    commit_snapshot(store, snapshot, fence=ALONE)

    def commit(work: FitWork) -> None:
        part = PartRef(f"parts/{work.shard.sha256}.parquet", work.shard.sha256, 8_000_000)
        found = Commit(work.split, work.shard.sha256, work.start, work.stop, work.units, part, psnr_sum=4e4)
        write_commit(store, TABLE, work, found, fence=ALONE)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(commit, ranges(snapshot, None, SCANS_PER_SHARD)[::2]))


def open_and_plan(root: str) -> dict[str, Any]:
    """In a process of its own: seconds of each part, and the peak of its memory."""
    from medfuncta_dist.fitting.fit_plan import plan
    from medfuncta_dist.fitting.latent_ledger import read_commits, settled
    from medfuncta_dist.shards.snapshot import load_snapshot
    from medfuncta_dist.storage.object_store import ObjectStore

    store, marks = ObjectStore(root), [time.perf_counter()]
    snapshot = load_snapshot(store, DATASET, None)
    marks.append(time.perf_counter())
    committed = {info.path.rsplit("/", 1)[-1].removesuffix(".json") for info in store.list(f"{TABLE}/commits")}
    marks.append(time.perf_counter())
    todo = plan(snapshot, None, committed, SCANS_PER_SHARD)
    marks.append(time.perf_counter())
    peak = peak_gb()
    assert settled(read_commits(store, TABLE)) == committed
    marks.append(time.perf_counter())
    assert len(todo) + len(committed) == len(snapshot.shards("train"))
    return {
        "scans": snapshot.samples,
        "shards": len(snapshot.shards("train")),
        "committed": len(committed),
        "seconds": marks[3] - marks[0],
        "open_seconds": marks[1] - marks[0],
        "list_seconds": marks[2] - marks[1],
        "plan_seconds": marks[3] - marks[2],
        "peak_gb": peak,
        "read_records_seconds": marks[4] - marks[3],
        "peak_with_records_gb": peak_gb(),
    }


def peak_gb() -> float:
    """The most memory this program has held, GB. Linux's ru_maxrss is no answer: a child inherits its parent's."""
    high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(high.split()[1]) * 1024 / 1e9


def shard(n: int) -> Any:
    """A shard's record, of no real object."""
    from medfuncta_dist.shards.snapshot import Shard

    sha, index = (hashlib.sha256(f"{what} {n}".encode()).hexdigest() for what in ("shard", "index"))
    paths = f"datasets/{DATASET}/shards/{sha}.tar", f"datasets/{DATASET}/indexes/{sha}.parquet"
    return Shard(paths[0], 6_000_000, sha, SCANS_PER_SHARD, paths[1], 100_000, index)


if __name__ == "__main__":
    if sys.argv[1:2] == ["open-and-plan"]:
        print(json.dumps(open_and_plan(sys.argv[2])))
    else:
        main()
