"""The benchmark of the exact fit: it needs little where little is installed, and measures the stage that is run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.exact_fit import (
    BATCH,
    FULL,
    ONE,
    SHORT,
    TWO,
    claims,
    copied,
    fitter_of,
    notes,
    product_on,
    speed_on,
    table,
    untrained,
)
from benchmarks.fit_archive import Archive, ArchiveSize, run_of, with_clock
from benchmarks.fit_throughput import images
from medfuncta_dist.fitting.fit_driver import locate_table
from medfuncta_dist.fitting.latent_ledger import verify
from medfuncta_dist.network.core_settings import field_spec
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.bare_install.bare_python import on_bare_install
from tests.unit.benchmarks.test_benchmarks import result_of

TINY = replace(SHORT, latent=12, hidden=8, gpu_batches=(BATCH,), gpu_scans=3 * BATCH, rounds=2)
FEW = ArchiveSize(side=64, scans=40, shard_scans=16)


def test_the_product_is_measured_where_only_the_compute_core_is_installed() -> None:
    found = json.loads(on_bare_install("-m", "benchmarks.exact_fit", "--short"))
    speeds = found["results"]["product"]["scans_per_s"]
    assert found["claims"][0]["measured"] == pytest.approx(speeds["product"] / speeds["published"], rel=1e-2)
    assert "stage" not in found["results"]
    assert "Ray is not installed: the stage was not run." in found["notes"]


@pytest.mark.slow
def test_exact_fit() -> None:
    found = result_of("exact_fit")
    stage, claims = found["results"]["stage"], {claim["what"]: claim["measured"] for claim in found["claims"]}
    assert stage["scans"] == SHORT.scans
    assert stage["scans_per_s"].keys() == {ONE, TWO}
    assert claims["from shards on disk to committed parts, two processes, scans/s"] == stage["scans_per_s"][TWO]
    assert stage["first_pass_seconds"][TWO] > SHORT.scans / stage["scans_per_s"][TWO]  # it starts Ray


def test_the_stage_fits_every_packed_scan_again_in_each_pass(tmp_path: Path) -> None:
    archive = Archive(tmp_path, untrained(TINY), FEW)
    for _ in range(2):
        assert archive.seconds(map_here) > 0
    store = ObjectStore(archive.run.storage)
    location = locate_table(archive.run, store)
    assert len(location.works) == 3
    assert verify(store, location.folder, location.works).fitted == FEW.scans
    steps = archive.cpu_by_step()
    assert all(microseconds > 0 for name, microseconds in steps.items() if name != "all else")
    # 4096 bytes of values; a latent's 12 float32 among the row's other columns.
    found = archive.bytes_per_scan()
    assert found["shard_bytes_per_scan"] > 4096
    assert found["part_bytes_per_scan"] > 4 * TINY.latent


def test_a_pass_that_loses_scans_is_no_result(tmp_path: Path) -> None:
    archive = Archive(tmp_path, untrained(TINY), FEW)
    archive.scans += 1
    with pytest.raises(SystemExit, match="40 of 41"):
        archive.seconds(map_here)


def test_the_run_is_that_of_the_preset_with_the_batch_of_the_product(tmp_path: Path) -> None:
    run = run_of(tmp_path, FULL.spec, FEW)
    assert field_spec(run) == FULL.spec
    assert (run.fit.batch, run.fit.method, run.fit.storage_type) == (BATCH, "exact", "float32")
    assert (run.field.latent, run.data.shape) == (2048, [64, 64])


def test_what_a_gpu_would_do_is_done_on_any_device() -> None:
    device, field = torch.device("cpu"), untrained(TINY)
    found = product_on(device, field, TINY)
    speeds = found["by_batch"][str(BATCH)]["scans_per_s"]
    assert speeds.keys() == {"float32", "TF32", "float32, with copies"}
    assert torch.get_float32_matmul_precision() == "highest"
    scans, fitter = images(None, "test", 4, 64), fitter_of(field, device)
    numbers, psnr, steps, finite = copied(fitter, scans, device)
    expected = fitter.fit(scans)
    assert torch.equal(torch.from_numpy(numbers), expected.latents)
    assert (psnr.shape, steps.tolist(), finite.all()) == ((4,), [1] * 4, True)


def test_the_clock_stops_when_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of work that is only put in a queue, the time is that of waiting for it."""
    called: list[str] = []
    monkeypatch.setattr("benchmarks.exact_fit.wait_for", lambda _: called.append("waited"))
    speed_on(torch.device("cpu"), BATCH, TINY, "highest", lambda: called.append("queued"))
    assert called == ["queued", "waited", *["queued"] * 3, "waited"]


def test_steps_are_added_up_even_where_one_fails() -> None:
    found = {"step": 0.0}

    def fails() -> None:
        sum(range(100_000))
        raise ValueError("read")

    with pytest.raises(ValueError, match="read"):
        with_clock(fails, found, "step")()
    assert found["step"] > 0


def results(**more: Any) -> dict[str, Any]:
    """As measured."""
    alone = {"scans_per_s": {"published": 0.1, "product": 3000.0}, "over_published": 3e4, "published_steps": 20}
    return {"product": {**alone, "made_seconds": 2.0}, **more}


def test_claims_follow_what_could_be_measured() -> None:
    assert [claim.target for claim in claims(results())] == [200]
    speeds = {"float32": 2e5, "TF32": 4e5}
    gpu = {
        "by_batch": {str(BATCH): {"scans_per_s": speeds}},
        "mean_psnr": {str(BATCH): {"float32": 50.0, "TF32": 45.0}},
        "made_seconds": 0.1,
    }
    stage = {
        "scans": 10,
        "scans_per_s": {ONE: 1000.0, TWO: 1900.0},
        "two_over_one": 1.9,
        "first_pass_seconds": {ONE: 1.0, TWO: 9.0},
        "cpu_us_per_scan": {"product": 300.0, "Parquet": 100.0},
        "shard_bytes_per_scan": 6600.0,
        "part_bytes_per_scan": 8000.0,
    }
    whole = results(stage=stage, gpu=gpu)
    assert [(claim.measured, claim.met) for claim in claims(whole)] == [(3e4, True), (1900.0, False), (2e5, True)]
    assert {row["what"]: row["scans/s"] or row["CPU µs per scan"] for row in table(whole)} == {
        "published fit, one thread": 0.1,
        "product, one thread, batch 256": 3000.0,
        "stage, one process": 1000.0,
        "stage, two processes": 1900.0,
        "product, GPU, batch 256, float32": 2e5,
        "product, GPU, batch 256, TF32": 4e5,
        "of a task: product": 300.0,
        "of a task: Parquet": 100.0,
    }
    assert any("400 µs per scan" in note and "5000 scans/s" in note for note in notes(whole))
    assert any("50.00 dB in float32" in note and "45.00 in TF32" in note for note in notes(whole))
