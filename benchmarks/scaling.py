"""What an archive of 1 M, 10 M and 100 M scans costs: time, GPUs, S3 requests and money; writes benchmarks/scaling.md.

Pure arithmetic over measured constants (benchmarks/results/*.json) and stated assumptions. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, rows_of

PAGE = ROOT / "benchmarks" / "scaling.md"
SIZES = (10**6, 10**7, 10**8)
GPUS = (8, 64)


@dataclass(frozen=True)
class Constant:
    """A number of the model. ``origin``: measured (on CPU, where), derived or assumed."""

    value: float
    unit: str
    origin: str


def constants(results: Path) -> dict[str, Constant]:
    """Every number the model uses."""
    stream, fan, job = (newest(results, name) for name in ("stream_throughput", "fanout", "million_scans"))
    kind = next(iter(stream["results"]["speed"].values()))
    archive_scans = kind["scans_per_s"]["S3, ours verified"] / kind["mb_per_s"]["S3, ours verified"]
    planned = fan["results"]["plan"]
    by_stream, by_fan, by_job = (
        f"measured: {record['benchmark']}, {record['machine']['name']}" for record in (stream, fan, job)
    )
    return {
        "tar bytes a scan (64² uint8)": Constant(1e6 / archive_scans, "B", by_stream),
        "stream, verified, from S3": Constant(kind["scans_per_s"]["S3, ours verified"], "scans/s a process", by_stream),
        "driver, a task": Constant(fan["results"]["fan_out"]["ms_per_shard"], "ms", by_fan),
        "driver, open and plan": Constant(planned["seconds"] / planned["shards"] * 1e3, "ms a shard", by_fan),
        "driver, read a record": Constant(planned["read_records_seconds"] / planned["committed"] * 1e3, "ms", by_fan),
        "scans a shard": Constant(1024, "", "default of data.shard_scans, which bounds a fit task"),
        "outer steps x batch": Constant(250_000 * 24, "scans", "the paper's training"),
        "meta-step arithmetic": Constant(
            244, "GFLOP a scan", "derived: 13 s a step of 8 scans on two cores of 150 GFLOP/s"
        ),
        "fit arithmetic": Constant(279, "GFLOP a scan", "derived: 20 full-context steps of 15 x 256, P = 2048, 64²"),
        "GPU": Constant(495e3, "GFLOP/s", "data sheet: H100 or H200, dense TF32"),
        "share of it reached": Constant(0.2, "", "assumed: sines and traffic are not in the arithmetic; not measured"),
        "pack": Constant(pack_speed(job), "scans/s a core", f"{by_job}: 64 values from CSV; images take longer"),
        **{
            f"S3 {what}, {stage}": Constant(number, "a shard", f"{by_job}, killed twice")
            for stage in ("pack", "fit")
            for what, number in requests_per_shard(job, stage).items()
        },
        "latent": Constant(2048 * 2, "B a scan", "P = 2048 as float16"),
        "a GPU's hour": Constant(3.0, "$", "assumed"),
        "a core's hour": Constant(0.04, "$", "assumed"),
        "1000 writes or listings": Constant(0.005, "$", "assumed: a list price of S3 standard"),
        "1000 reads": Constant(0.0004, "$", "assumed: the same"),
        "a GB for a month": Constant(0.023, "$", "assumed: the same"),
    }


def requests_in_time(results: Path) -> str:
    """What training and waiting cost in requests, in a sentence: measured, and small beside those of the shards."""
    found = json.loads((results / "request_counts.json").read_text())
    step, minute = sum(found["a training step"].values()), found["an idle minute"]
    reads, writes = minute["read"] * 60, minute["write"] * 60
    return (
        f"A training step sends {step:g} requests. A driver that waits sends {reads:,.0f} reads and {writes:,.0f} "
        "writes an hour, for its lease and its progress. Measured (`request_counts.json`), and not in the table."
    )


def pack_speed(job: dict[str, Any]) -> float:
    """Scans per second of the CPU time of all nodes, Ray's own processes among them."""
    return float(job["results"]["scans"] / job["results"]["pack"]["nodes_cpu_s"])


def requests_per_shard(job: dict[str, Any], stage: str) -> dict[str, float]:
    """Of a stage, without those for the archive itself: what is priced as a write, and what as a read."""
    found, shards = job["results"][stage]["requests"], job["results"]["pack"]["objects"]["shards"]
    priced = {"writes and listings": ("PUT ", "POST ", "LIST "), "reads": ("GET ", "HEAD ")}  # deletions are free
    return {
        what: sum(n for name, n in found.items() if name.startswith(methods) and not name.endswith(" archive")) / shards
        for what, methods in priced.items()
    }


def newest(results: Path, name: str) -> dict[str, Any]:
    """The results of a benchmark; the one measured last, where there are several machines."""
    files = sorted(results.glob(f"{name}-*.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise SystemExit(f"no results of {name} in {results}: run `make bench` first")
    found: dict[str, Any] = json.loads(files[-1].read_text())
    return found


def cost(scans: int, given: dict[str, Constant]) -> dict[str, float]:
    """Hours, requests, gigabytes and money for an archive of ``scans`` scans."""
    c = {name: constant.value for name, constant in given.items()}
    shards = math.ceil(scans / c["scans a shard"])
    gpu = c["GPU"] * c["share of it reached"]
    train_hours = c["outer steps x batch"] * c["meta-step arithmetic"] / gpu / 3600
    fit_hours = scans * c["fit arithmetic"] / gpu / 3600
    writes, reads = (
        shards * sum(c[f"S3 {what}, {stage}"] for stage in ("pack", "fit")) for what in ("writes and listings", "reads")
    )
    # Training reads the tar and the index of what it visits.
    reads += min(1.0, c["outer steps x batch"] / scans) * shards * 2
    # Each record is read twice: before planning, to know what is done, and for the summary.
    records = 2 * c["driver, read a record"]
    gigabytes = scans * (c["tar bytes a scan (64² uint8)"] + c["latent"]) / 1e9
    core_hours = scans / c["pack"] / 3600
    return {
        "scans": scans,
        "shards": shards,
        "pack, core hours": core_hours,
        "train, GPU hours": train_hours,
        "fit, GPU hours": fit_hours,
        **{f"fit, hours on {n} GPUs": fit_hours / n for n in GPUS},
        "driver, minutes": shards * (c["driver, a task"] * 2 + c["driver, open and plan"] + records) / 6e4,
        "of these, reading records": shards * records / 6e4,
        "stream processes one GPU needs": gpu / c["fit arithmetic"] / c["stream, verified, from S3"],
        "S3 writes and listings": writes,
        "S3 reads": reads,
        "stored, GB": gigabytes,
        "GPUs, $": (train_hours + fit_hours) * c["a GPU's hour"],
        "packing, $": core_hours * c["a core's hour"],
        "S3 requests, $": writes / 1e3 * c["1000 writes or listings"] + reads / 1e3 * c["1000 reads"],
        "storage, $ a month": gigabytes * c["a GB for a month"],
    }


def page(given: dict[str, Constant]) -> str:
    """The whole of scaling.md."""
    costs = [cost(scans, given) for scans in SIZES]
    rows = [{"": name, **{f"{c['scans'] / 1e6:g} M scans": shown(c[name]) for c in costs}} for name in costs[0]]
    numbers = [
        {"constant": n, "value": f"{shown(c.value)} {c.unit}".strip(), "origin": c.origin} for n, c in given.items()
    ]
    return f"""# What an archive costs

Written by `python -m benchmarks.scaling` from `benchmarks/results/`; change the script, not this page. Constants that
are measured name the benchmark and the machine: they are a CPU's, and a shared one's. **No GPU was measured for this
page**: the GPU's hours are arithmetic over a data sheet's peak and an assumed share of it, and follow that share in
proportion.

{rows_of(rows)}

## Constants and assumptions

{rows_of(numbers)}

- {requests_in_time(RESULTS)}
- The paper's 2D network on 64² scans. Training does not depend on the archive's size: the outer steps are fixed, and of
  a large archive they visit a part.
- Every shard is read from S3 once by fitting and, as far as it is visited, once by training: a node's cache holds what
  training comes back to, on one node. With n nodes, training's reads are up to n times as many.
- Requests of packing and fitting are those of a job that was killed twice in each stage, divided by its shards; leases,
  with a heartbeat every four seconds, and logs are among them.
- Left out: requests for the archive itself (about two a file), retries, preempted work (at most one shard a lost worker
  in fitting, and the steps since the last checkpoint in training), checkpoints, telemetry, evaluation, and traffic out
  of the region.
"""


def shown(number: float) -> str:
    """Three digits, thousands apart; small numbers as they are."""
    if number >= 1000:
        digits = len(str(int(number))) - 3
        return f"{round(number, -digits):,.0f}"
    return f"{number:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="print the page, write nothing")
    text = page(constants(RESULTS))
    if parser.parse_args().short:
        print(text)
    else:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
