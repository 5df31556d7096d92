from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.fft

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LeaseLostError, RunFileError, StageOrderError, StorageError
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.network.network_loader import network_here
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import Done, Failed, map_here
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.kinds import KINDS
from tests.unit.latents.fitted import COUNTS, LATENT, network, publish, ready, run_file
from tests.writers import PATIENT, structured, write_ecg_csv, write_nifti

SCANS = sum(COUNTS.values())


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    run = ready(
        tmp_path_factory.mktemp("run"), request.param, evaluate={"pictures": 3, "note": "pictures made for a test"}
    )
    fit(run, map_here)
    log = EventLog(ObjectStore(run.storage), run.name, "0000")
    for step in range(5):
        log.log(step, {"loss": 0.1 / (1 + step), "psnr": 20.0 + step})
    log.close()
    return run


@pytest.fixture(scope="module")
def summary(run: RunFile) -> dict[str, Any]:
    return evaluate(run, map_here)


def report(run: RunFile, name: str) -> bytes:
    return ObjectStore(run.storage).read(f"runs/{run.name}/report/{name}")


def metrics(run: RunFile) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(report(run, "metrics.parquet"))).to_pylist()


def test_a_gpu_that_is_visible_but_not_granted_is_left_alone(run, summary, visible_gpu):
    network_here.cache_clear()
    assert evaluate(run, map_here)["splits"] == summary["splits"]


def test_every_fitted_scan_is_scored_and_agrees_with_the_table(run, summary):
    rows = metrics(run)
    store = ObjectStore(run.storage)
    fitted = {r["key"]: r for r in latent_ledger.load_table(store, locate_table(run, store).folder).to_pylist()}
    assert [row["key"] for row in rows] == sorted(fitted)
    for row in rows:
        assert row["psnr"] == pytest.approx(fitted[row["key"]]["psnr"], abs=1e-3)
        assert row["psnr"] == pytest.approx(-10 * np.log10(row["mse"]))
        assert -1 <= row["ssim"] <= 1
        assert row["labels"] == fitted[row["key"]]["labels"]
    assert summary["largest_psnr_difference"] < 1e-3


def test_the_summary_is_means_over_scans_by_split_and_by_label(run, summary):
    rows = metrics(run)
    for split, scans in COUNTS.items():
        mine = [row for row in rows if row["split"] == split]
        assert summary["splits"][split]["psnr"]["scans"] == scans
        for metric in ("psnr", "ssim", "mse"):
            assert summary["splits"][split][metric]["mean"] == pytest.approx(np.mean([row[metric] for row in mine]))
    zeros = [row["psnr"] for row in rows if row["split"] == "test" and row["labels"] == [0]]
    assert summary["labels"]["0"]["psnr"]["mean"] == pytest.approx(np.mean(zeros))
    assert summary["counts"] == {"packed": SCANS, "fitted": SCANS, "quarantined": 0, "flagged": 0}
    assert summary["dataset"]["counts"]["packed"] == SCANS


def test_baselines_are_those_of_the_original_pictures(summary):
    pictures = {split: np.stack([_written(split, i).ravel() for i in range(count)]) for split, count in COUNTS.items()}
    errors = np.square(pictures["test"][:, None] - pictures["train"][None]).mean(axis=2)
    mean = np.square(pictures["test"] - pictures["train"].mean(axis=0)).mean(axis=1)
    found = summary["baselines"]
    assert found["scans"] == COUNTS["test"]
    assert found["nearest_scan"]["psnr"]["mean"] == pytest.approx(np.mean(-10 * np.log10(errors.min(axis=1))), abs=1e-4)
    assert found["mean_scan"]["psnr"]["mean"] == pytest.approx(np.mean(-10 * np.log10(mean)), abs=1e-4)
    mine = summary["splits"]["test"]["psnr"]["mean"]
    assert found["mean_scan"]["gain"] == pytest.approx(mine - found["mean_scan"]["psnr"]["mean"])


def test_pca_of_the_training_pictures_alone_is_a_baseline(run, summary):
    train, test = (np.stack([_written(s, i).ravel() for i in range(COUNTS[s])]) for s in ("train", "test"))
    components = min(LATENT, COUNTS["train"] - 1)
    assert components < LATENT  # what the training split allows
    _, _, directions = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)
    basis = directions[:components]
    again = np.clip(train.mean(axis=0) + (test - train.mean(axis=0)) @ basis.T @ basis, 0, 1)
    errors = np.square(test - again).mean(axis=1)
    found = summary["baselines"]["pca"]
    assert (found["components"], found["training_scans"]) == (components, COUNTS["train"])
    assert found["psnr"]["mean"] == pytest.approx(np.mean(-10 * np.log10(errors)), abs=1e-3)
    assert found["gain"] == pytest.approx(summary["splits"]["test"]["psnr"]["mean"] - found["psnr"]["mean"])
    assert "PCA, 21 components" in report(run, "report.html").decode()


def test_a_dct_of_as_many_coefficients_as_the_latent_has_numbers_is_a_baseline(run, summary):
    train, test = (np.stack([_written(s, i) for i in range(COUNTS[s])]) for s in ("train", "test"))
    waves = scipy.fft.dctn(train, axes=(1, 2), norm="ortho")
    kept = np.zeros(144, bool)
    kept[np.argsort(-waves.var(axis=0).ravel())[:LATENT]] = True
    left = scipy.fft.dctn(test, axes=(1, 2), norm="ortho")
    left = np.where(kept.reshape(12, 12), left, waves.mean(axis=0))
    errors = np.square(test - np.clip(scipy.fft.idctn(left, axes=(1, 2), norm="ortho"), 0, 1)).mean(axis=(1, 2))
    found = summary["baselines"]["dct"]
    assert (found["coefficients"], found["training_scans"]) == (LATENT, COUNTS["train"])
    assert found["psnr"]["mean"] == pytest.approx(np.mean(-10 * np.log10(errors)), abs=1e-3)
    assert found["gain"] == pytest.approx(summary["splits"]["test"]["psnr"]["mean"] - found["psnr"]["mean"])
    assert f"DCT, {LATENT} coefficients" in report(run, "report.html").decode()


def _written(split: str, index: int) -> np.ndarray:
    """The picture that ``write_medmnist`` wrote, as it was stored in eight bits."""
    seed = sum(map(ord, split)) * 1009 + index
    return np.rint(structured((12, 12), seed, index % 2) * 255) / 255


def test_the_report_and_summary_are_written(run, summary):
    assert json.loads(report(run, "summary.json")) == summary
    page = report(run, "report.html").decode()
    assert "pictures made for a test" in page
    assert page.count('alt="Original of scan') == 3
    assert "Training loss" in page
    assert f"{summary['splits']['test']['psnr']['mean']:.2f}" in page


def test_nothing_in_the_report_names_a_file_or_a_patient(run, summary):
    everything = report(run, "report.html") + report(run, "summary.json") + report(run, "metrics.parquet")
    for word in ("scans-0", "archive", PATIENT):
        assert word.encode() not in everything


def test_results_do_not_depend_on_the_order_of_completion(run, summary):
    before = {name: report(run, name) for name in ("report.html", "summary.json", "metrics.parquet")}
    evaluate(run, lambda task, items: iter(list(map_here(task, items))[::-1]))
    assert {name: report(run, name) for name in before} == before


def test_progress_reaches_the_end(run):
    seen: list[ProgressReport] = []
    evaluate(run, map_here, seen.append)
    assert [report.done for report in seen] == list(range(1, len(seen) + 1))
    assert {report.total for report in seen} == {len(seen)}


def test_a_driver_that_was_taken_over_leaves_the_report_alone(run, summary):
    store = ObjectStore(run.storage)
    before = report(run, "report.html")
    claim = take(store, "runs/lost.json", 60, print)
    claim.give_back()
    store.write(f"runs/{run.name}/report/report.html", b"the successor's")
    with pytest.raises(LeaseLostError):
        evaluate(run, map_here, fence=claim.fence)
    assert report(run, "report.html") == b"the successor's"
    store.write(f"runs/{run.name}/report/report.html", before)


def test_a_failed_task_fails_the_stage(run):
    def failing(task: Any, items: Sequence[Any]) -> Iterator[Done | Failed]:
        yield Failed(items[0], StorageError("storage is down"))

    with pytest.raises(StorageError):
        evaluate(run, failing)


def test_the_training_split_has_no_baseline_in_itself(run):
    train = run.model_copy(update={"evaluate": run.evaluate.model_copy(update={"split": "train", "pictures": 0})})
    assert evaluate(train, map_here)["baselines"] is None


def test_a_split_without_scans_is_refused(run):
    other = run.model_copy(update={"evaluate": run.evaluate.model_copy(update={"split": "val"})})
    with pytest.raises(RunFileError, match="'val'"):
        evaluate(other, lambda task, items: pytest.fail("all scans were decoded before the split was looked at"))


def test_evaluation_waits_for_the_last_scan_to_be_fitted(run, tmp_path):
    other = ready(tmp_path)
    with pytest.raises(StageOrderError, match=f"{SCANS} packed scans"):
        evaluate(other, map_here)


@pytest.mark.parametrize("kind", ["ecg", "volume"])
def test_one_and_three_dimensions_go_the_same_way(tmp_path: Path, kind: str):
    archive = tmp_path / "archive"
    archive.mkdir()
    if kind == "ecg":
        write_ecg_csv(archive / "beats.csv", rows=24)
        data = {"source": str(archive / "*.csv"), "reader": "ecg-csv", "shape": [187]}
    else:
        for seed in range(12):
            write_nifti(archive / f"{seed}.nii.gz", (10, 9, 8), seed)
        data = {"source": str(archive / "*.nii.gz"), "shape": [8, 8, 8]}
    run = run_file(tmp_path, data={**data, "fractions": {"train": 0.5, "test": 0.5}})
    pack(run, map_here, lambda _: None)
    publish(run, network(run))
    fit(run, map_here)
    summary = evaluate(run, map_here)
    assert summary["counts"]["fitted"] == {"ecg": 24, "volume": 12}[kind]
    assert bool(summary["labels"]) == (kind == "ecg")
    assert "as curves" in report(run, "report.html").decode() or kind == "volume"


def test_a_quarantined_shard_does_not_stop_the_evaluation_of_the_others(tmp_path):
    run = ready(tmp_path, data={"max_quarantined": 1.0})
    store = ObjectStore(run.storage)
    shard = next(work.shard for work in locate_table(run, store).works if work.split == "train")
    store.write(shard.uri, store.read(shard.uri)[:-512])
    fit(run, map_here)
    summary = evaluate(run, map_here)
    assert summary["counts"]["quarantined"] == shard.samples
    assert summary["quarantine_reasons"]["fitting"] == {"its shard is damaged or missing": shard.samples}
