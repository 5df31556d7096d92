"""The benchmark of a cluster with GPUs: what it refuses, and its dry form on a Ray of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_cluster import counts_up_to, main, table
from tests.bare_install.bare_python import ROOT


def test_what_is_missing_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["--storage", ""]) == 2
    assert "STORAGE is missing" in capsys.readouterr().err
    assert main(["--storage", "s3://bucket/x"]) == 2
    assert "RAY_ADDRESS is missing" in capsys.readouterr().err


def test_workers_double_up_to_all_gpus() -> None:
    assert counts_up_to(1) == [1]
    assert counts_up_to(4) == [1, 2, 4]
    assert counts_up_to(6) == [1, 2, 4, 6]


def test_speeds_are_over_those_of_the_fewest_workers_and_failures_stay_in_their_row() -> None:
    one = {"steps_per_s": 10.0, "scans_per_s": 240.0, "data_wait": 0.01, "fit_scans_per_s": 100.0}
    two = {"steps_per_s": 18.0, "scans_per_s": 432.0, "data_wait": 0.02, "fit_scans_per_s": 190.0}
    first, second = table(
        {
            1: {"all_reduce": {"ms": 0.1, "bus_gb_per_s": 0.0}, "one_batch": one},
            2: {"all_reduce": {"failed": "no route"}, "one_batch": two, "batch_per_worker": {"scans_per_s": 470.0}},
        }
    )
    assert (first["training, steps/s"], first["fit, scans/s"]) == ("10 (1.00 x)", "100 (1.00 x)")
    assert (second["training, steps/s"], second["fit, scans/s"]) == ("18 (1.80 x)", "190 (1.90 x)")
    assert second["a batch per worker, scans/s"] == "470 (1.96 x)"
    assert (second["all-reduce, ms"], second["failed"]) == ("", "all_reduce: no route")


@pytest.mark.slow
def test_the_dry_form_trains_and_fits_with_one_worker_and_two(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "benchmarks.gpu_cluster", "--dry", "--out", str(tmp_path)]
    environment["PYTHONPATH"] = str(ROOT)
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    rows = json.loads(answer.stdout)["results"]
    assert list(rows) == ["1", "2"]
    for row in rows.values():
        assert row["all_reduce"]["backend"] == "gloo"
        assert row["all_reduce"]["ms"] > 0
        assert row["one_batch"]["steps_per_s"] > 0
        assert 0 <= row["one_batch"]["data_wait"] <= 1
        assert row["one_batch"]["fitted"] == 48
    assert json.loads((tmp_path / "gpu-cluster-dry.json").read_text())["results"] == rows
    assert "| 2 |" in (tmp_path / "gpu-cluster-dry.md").read_text()
