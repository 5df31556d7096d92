"""The benchmarks run, and what they tell is true of their own numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import Claim, ratio, side_by_side
from benchmarks.scaling import Constant, constants, cost, page

ROOT = Path(__file__).resolve().parents[3]


def result_of(name: str, seconds: float = 120) -> dict[str, Any]:
    """The JSON of a benchmark's short form, run as a user runs it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    command = [sys.executable, "-m", f"benchmarks.{name}", "--short"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_stream_throughput() -> None:
    found = result_of("stream_throughput")
    (speed,) = found["results"]["speed"].values()
    assert set(speed["scans_per_s"]) == {
        f"{where}, {what}"
        for where in ("S3", "disk")
        for what in ("ours verified", "ours unverified", "plain webdataset")
    }
    for where in ("S3", "disk"):
        numbers = speed["scans_per_s"]
        expected = numbers[f"{where}, ours verified"] / numbers[f"{where}, plain webdataset"]
        assert speed["over_plain"][f"{where}, verified"] == pytest.approx(expected, rel=1e-2)
    assert all(0 <= waiting["share"] <= 1 for waiting in found["results"]["wait"].values())
    assert len(found["claims"]) == 6
    assert found["commit"]
    assert found["command"] == "python -m benchmarks.stream_throughput --short"


def test_a_claim_knows_which_way_is_better() -> None:
    assert Claim("speed", 1.6, 1.5, at_least=True).met
    assert not Claim("speed", 1.4, 1.5, at_least=True).met
    assert Claim("memory", 1.4, 1.5, at_least=False).met
    assert not Claim("memory", 1.6, 1.5, at_least=False).met


def test_variants_take_turns() -> None:
    turns: list[str] = []

    def run(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    numbers = side_by_side({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=3)
    assert turns == ["a", "b"] * 3
    assert numbers == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert ratio(numbers["b"], numbers["a"]) == pytest.approx(4 / 3)


def results(folder: Path) -> Path:
    """What the other benchmarks leave, as far as the cost model reads it."""
    machine = {"machine": {"name": "cpu-2core"}}
    kind = {"scans_per_s": {"S3, ours verified": 1000.0}, "mb_per_s": {"S3, ours verified": 6.5}}
    stream = {"benchmark": "stream_throughput", **machine, "results": {"speed": {"2D": kind}}}
    plan = {"seconds": 4.0, "shards": 10_000, "committed": 5_000, "read_records_seconds": 5.0}
    fan = {"benchmark": "fanout", **machine, "results": {"plan": plan, "fan_out": {"ms_per_shard": 1.0}}}
    packing = {"PUT shards": 100, "PUT packs": 20, "LIST packs": 5, "HEAD shards": 150, "GET archive": 900}
    fitting = {"PUT parts": 100, "GET shards": 120, "DELETE other": 50, "bytes to server": 10**6}
    stages = {
        "pack": {"nodes_cpu_s": 100.0, "objects": {"shards": 100}, "requests": packing},
        "fit": {"requests": fitting},
    }
    job = {"benchmark": "million_scans", **machine, "results": {"scans": 102_400, **stages}}
    for name, content in (("stream_throughput", stream), ("fanout", fan), ("million_scans", job)):
        (folder / f"{name}-cpu-2core.json").write_text(json.dumps(content))
    return folder


def test_the_cost_model_follows_its_constants(tmp_path: Path) -> None:
    given = constants(results(tmp_path))
    assert given["tar bytes a scan (64² uint8)"].value == pytest.approx(6500)
    one, ten = cost(1024 * 1000, given), cost(1024 * 10_000, given)
    for linear in ("shards", "fit, GPU hours", "stored, GB", "packing, $", "driver, minutes"):
        assert ten[linear] == pytest.approx(10 * one[linear])
    assert ten["train, GPU hours"] == one["train, GPU hours"]
    # A thousand shards: two tasks of 1 ms, 0.4 ms of planning, and their records, read twice at 1 ms.
    assert one["driver, minutes"] == pytest.approx(1000 * (2 + 0.4 + 2) / 60_000)
    assert one["of these, reading records"] == pytest.approx(1000 * 2 / 60_000)
    # 1 024 000 scans x 279 GFLOP at a fifth of 495 TFLOP/s.
    assert one["fit, GPU hours"] == pytest.approx(1_024_000 * 279 / 99_000 / 3600)
    assert one["fit, hours on 8 GPUs"] == pytest.approx(one["fit, GPU hours"] / 8)
    # Of a hundred shards: 125 writes and listings and 150 reads in packing, 100 and 120 in fitting; a deletion is free.
    assert one["S3 writes and listings"] == pytest.approx(2.25 * 1000)
    # Training visits all of them, each a tar and an index.
    assert one["S3 reads"] == pytest.approx((2.7 + 2) * 1000)
    assert one["pack, core hours"] == pytest.approx(1_024_000 / 1024 / 3600)
    dearer = given | {"a GPU's hour": Constant(6.0, "$", "assumed")}
    assert cost(1024, dearer)["GPUs, $"] == pytest.approx(2 * cost(1024, given)["GPUs, $"])


def test_the_page_tells_every_constant_and_its_origin(tmp_path: Path) -> None:
    given = constants(results(tmp_path))
    text = page(given)
    for name, constant in given.items():
        assert f"| {name} | " in text
        assert constant.origin in text
    assert "100 M scans" in text


@pytest.mark.slow
def test_fit_throughput() -> None:
    found = result_of("fit_throughput")
    small, claims = found["results"]["small"], {claim["what"]: claim for claim in found["claims"]}
    below = small["gauss-newton, 10 steps"]["psnr"] - small["gauss-newton, 10 steps, int8"]["psnr"]
    assert claims["int8 below float32, dB"]["measured"] == pytest.approx(below, abs=0.02)
    speed = found["results"]["seconds_per_scan"]
    assert claims["scans/s over the published fit"]["measured"] == pytest.approx(
        speed["published"] / speed["gauss-newton, 3 steps"], rel=1e-2
    )
    assert small["sgd, 5 of 20 steps"]["mean_steps"] == 5
