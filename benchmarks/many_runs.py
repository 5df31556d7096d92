"""`list --storage` and `status NAME --storage` of a storage with 2000 runs, as whole processes, against `--help`.

The runs are written by what writes them in production: records of submissions, progress and marks of activity; beside
them lie other objects, as a run has thousands. The embedded S3 server serves them; its requests are counted by a
counter before it in one more call, which is not timed. No cluster answers, so that all states come from storage.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Claim, arguments, ratio, report, side_by_side

RUNS, OTHERS, ROUNDS, LOCAL = 2_000, 20, 5, 10
ROOT_URI = "s3://bench/all"
HEAVY = ("ray", "torch", "pandas", "pyarrow")
COMMANDS = {
    "--help": ["--help"],
    "list --storage": ["list", "--storage", ROOT_URI],
    "list --storage --limit 5": ["list", "--storage", ROOT_URI, "--limit", "5"],
    "status NAME --storage": ["status", "run-7", "--storage", ROOT_URI],
}
IMPORTS = f"""
import sys
from medfuncta_dist.cli.app import main
try:
    main()
finally:
    print("heavy:", *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def main() -> None:
    short, began = arguments(__doc__).short, time.perf_counter()
    runs, rounds = (60, 2) if short else (RUNS, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), runs, rounds)
    claims = [
        Claim(f"`{name}`, seconds, the fastest of {rounds}", min(results[name]["seconds"]), 2, at_least=False)
        for name in ("list --storage", "status NAME --storage")
    ]
    claims.append(Claim("heavy libraries that they import", results["heavy"], 0, at_least=False))
    table = [
        {
            "command": f"`{name}`",
            "seconds, median": statistics.median(results[name]["seconds"]),
            "fastest": min(results[name]["seconds"]),
            "of `--help`": results[name]["of_help"],
            "requests": results[name]["requests"],
        }
        for name in COMMANDS
    ]
    report("many_runs", short, began, {"runs": runs, **results}, claims, table, NOTES)


NOTES = [
    f"each run has a submission, a finished stage and {OTHERS} other objects; lists show 50 runs unless they say "
    "otherwise. The run that `status` is asked for was begun without a cluster, and none is asked",
    "client and server share the cores; the ratio to `--help` is the median over the rounds, of neighbours in time",
]


def measure(folder: Path, runs: int, rounds: int) -> dict[str, Any]:
    """Seconds of each command, in turns; its requests; how many heavy libraries the last two import."""
    from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
    from tests.counting_server import counting

    write_runs(folder / "s3" / "bench" / "all", runs)
    with EmbeddedS3(folder / "s3") as s3, counting(s3.endpoint) as counts:
        # Of the user's own clusters, none is asked.
        environment = {**os.environ, **s3.environment, "KUBECONFIG": str(folder / "none"), "PYTHONPATH": str(ROOT)}
        environment.pop("KUBERNETES_SERVICE_HOST", None)
        seconds = side_by_side({name: command(words, environment) for name, words in COMMANDS.items()}, rounds)
        results: dict[str, Any] = {}
        heavy: set[str] = set()
        for name, words in COMMANDS.items():
            counts.take()
            said = call(["-c", IMPORTS, *words], {**environment, "AWS_ENDPOINT_URL": counts.url}).stderr
            heavy |= set(said.rpartition("heavy:")[2].split())
            of_help = ratio(seconds[name], seconds["--help"])
            results[name] = {"seconds": seconds[name], "of_help": of_help, "requests": sum(counts.take().values())}
    return {**results, "heavy": len(heavy)}


def command(words: list[str], environment: dict[str, str]) -> Callable[[], float]:
    """What runs it once, and how many seconds that takes."""

    def seconds() -> float:
        began = time.perf_counter()
        call(["-m", "medfuncta_dist.cli.app", *words], environment)
        return time.perf_counter() - began

    return seconds


def call(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A Python process that must succeed."""
    found = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{words} ended with {found.returncode}:\n{found.stdout}\n{found.stderr}")
    return found


def write_runs(root: Path, runs: int) -> None:
    """Runs that have fitted. The first were begun on this machine, and keep their run file."""
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda number: write_run(root, number), range(runs)))


def write_run(root: Path, number: int) -> None:
    """A run, by its production writers, and objects of no particular content."""
    from medfuncta_dist.config.load import load
    from medfuncta_dist.run.frozen_run_file import freeze
    from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
    from medfuncta_dist.storage.object_store import ObjectStore
    from medfuncta_dist.storage.publish import ALONE
    from medfuncta_dist.submit.status.job_records import SubmissionRecord, create_job_record
    from medfuncta_dist.telemetry.progress_record import ProgressRecorder
    from medfuncta_dist.telemetry.progress_report import ProgressReport

    store, name = ObjectStore(str(root)), f"run-{number}"
    if number < LOCAL:
        file = str(ROOT / "jobs" / "quickstart.yaml")
        freeze(load(file, [f"name={name}", f"storage={root}"]), store, fence=ALONE)
    job = None if number < LOCAL else f"{name}-fit-1"
    if job is not None:
        record = SubmissionRecord(job, ("fit",), 1, "kubernetes", time.time(), "0" * 64, "abc")
        create_job_record(ConditionalStore(store, conditional=True), name, record)
    with ProgressRecorder(store, name, "fit", job=job) as recorder:
        recorder.record(ProgressReport("fit", 100, 100))
    parts = root / "runs" / name / "latents" / "0-0" / "parts"
    parts.mkdir(parents=True)
    for part in range(OTHERS):
        (parts / f"{part}.parquet").write_bytes(b"x")


if __name__ == "__main__":
    main()
