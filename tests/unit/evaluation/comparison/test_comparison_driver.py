from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.evaluation.comparison.compared_run import ComparedRun
from medfuncta_dist.evaluation.comparison.comparison_driver import (
    comparison_folder,
    said,
    write_comparison,
)
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.evaluation.stored_scores import read_scores
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.unit.evaluation.test_report import Page
from tests.unit.latents.fitted import COUNTS, network, publish, ready, run_file
from tests.writers import PATIENT, write_ecg_csv, write_nifti


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def runs(folder: Path) -> tuple[RunFile, RunFile]:
    """The same scans, fitted in four steps and in one, and stored in int8."""
    first = ready(folder)
    fewer = first.fit.model_copy(update={"steps": 1, "full_steps": 0, "storage_type": "int8"})
    second = first.model_copy(
        update={"name": "fewer", "fit": fewer, "data": first.data.model_copy(update={"dataset": "small"})}
    )
    publish(second, network(first))
    for run in (first, second):
        fit(run, map_here)
        evaluate(run, map_here)
    return first, second


@pytest.fixture(scope="module")
def content(runs: tuple[RunFile, RunFile], folder: Path) -> dict[str, Any]:
    return write_comparison(*runs, folder / "out", "test", 2)


def by_key(run: RunFile) -> dict[str, dict[str, Any]]:
    return {
        row["key"]: row for row in read_scores(ObjectStore(run.storage), run.name).to_pylist() if row["split"] == "test"
    }


def test_differences_are_those_of_the_same_scans(runs, content):
    a, b = map(by_key, runs)
    differences = {key: b[key]["psnr"] - a[key]["psnr"] for key in a}
    assert content["pairs"] == COUNTS["test"] == len(a)
    assert content["psnr"]["difference"] == pytest.approx(np.mean(list(differences.values())))
    assert content["psnr"]["low"] < content["psnr"]["difference"] < content["psnr"]["high"]
    assert content["psnr"]["worse"] == pytest.approx(np.mean([d < 0 for d in differences.values()]))
    worst = min(differences, key=lambda key: differences[key])
    assert content["losers"][0]["key"] == worst
    assert [s["difference"] for s in content["losers"]] == sorted(d for d in differences.values() if d < 0)
    zeros = [differences[key] for key in a if a[key]["labels"] == [0]]
    assert content["labels"]["0"]["difference"] == pytest.approx(np.mean(zeros))
    assert content["labels"]["0"]["scans"] == len(zeros)


def test_sizes_and_settings_are_told(runs, content):
    assert content["runs"]["a"]["latent"] == {"type": "float32", "numbers": 24, "of": 24, "bytes": 96}
    assert content["runs"]["b"]["latent"] == {"type": "int8", "numbers": 24, "of": 24, "bytes": 28}
    store = ObjectStore(runs[1].storage)
    folder = Path(runs[1].storage) / json.loads(store.read("runs/fewer/report/summary.json"))["latents"]
    assert content["runs"]["b"]["table_bytes"] == sum(p.stat().st_size for p in (folder / "parts").iterdir())
    assert {row["key"] for row in content["settings"]} == {"fit.steps", "fit.storage_type"}
    assert content["notes"] == []


def test_both_files_are_the_owner_s_and_the_page_is_whole(folder, content):
    assert json.loads((folder / "out/comparison.json").read_bytes()) == content
    assert (content["format_version"], content["kind"]) == (1, "medfuncta comparison")
    for name in ("comparison.json", "comparison.html"):
        assert stat.S_IMODE((folder / "out" / name).stat().st_mode) == 0o600
    page = Page((folder / "out/comparison.html").read_text())
    assert page.open == []
    shown = min(2, len(content["losers"])) + min(2, len(content["gainers"]))
    assert len(page.images) == 3 * shown
    assert all(image["src"].startswith("data:") and image["alt"] for image in page.images)
    assert content["losers"][0]["key"][:12] in page.words
    for word in ("archive", PATIENT):
        assert word not in (folder / "out/comparison.html").read_text()


def test_it_is_said_in_lines(folder, content):
    lines = said(content, folder)
    assert f"{content['psnr']['difference']:+.2f} dB" in lines[1]
    assert any("fit.steps: 4 → 1" in line for line in lines)
    assert "24 × float32 = 96 bytes → 24 × int8 = 28 bytes" in "\n".join(lines)


def test_progress_reaches_the_end(runs, tmp_path):
    seen: list[ProgressReport] = []
    write_comparison(*runs, tmp_path, "train", 0, seen.append)
    assert [report.done for report in seen] == [1, 2, 3, 4]
    assert not Page((tmp_path / "comparison.html").read_text()).images


def test_pages_with_scans_stay_outside_the_storage(runs, tmp_path):
    for refused in (f"{runs[0].storage}/x", "s3://bucket/x"):
        with pytest.raises(RunFileError, match="shows scans"):
            comparison_folder(*runs, refused)
    assert comparison_folder(*runs, str(tmp_path)) == tmp_path.resolve()
    assert comparison_folder(*runs, None).name == "small-fewer"


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    with pytest.raises(RunFileError, match="same run"):
        write_comparison(runs[0], runs[0], tmp_path, "test", 0)
    with pytest.raises(RunFileError, match="'val'") as refused:
        write_comparison(*runs, tmp_path, "val", 0)
    assert "test" in refused.value.do
    other = ready(tmp_path)
    fit(other, map_here)
    with pytest.raises(StageOrderError, match="not been evaluated"):
        write_comparison(runs[0], other, tmp_path / "out", "test", 0)
    evaluate(other, map_here)
    with pytest.raises(RunFileError, match="in common") as apart:  # another salt
        write_comparison(runs[0], other, tmp_path / "out", "test", 0)
    assert "salt" in apart.value.do


def test_curves_are_not_compared_with_pictures(runs, tmp_path):
    (tmp_path / "archive").mkdir()
    for number in range(2):
        write_ecg_csv(tmp_path / "archive" / f"beats-{number}.csv", rows=6, seed=number)
    data = {"source": str(tmp_path / "archive"), "shape": [187], "fractions": {"train": 0.5, "test": 0.5}}
    curves = run_file(tmp_path, data=data)
    pack(curves, map_here, lambda _: None)
    publish(curves, network(curves))
    fit(curves, map_here)
    evaluate(curves, map_here)
    with pytest.raises(RunFileError, match="of run small have 2 axes, those of run small 1"):
        write_comparison(runs[0], curves, tmp_path / "out", "test", 1)


def test_scores_of_other_latents_are_refused(runs, tmp_path):
    refitted = runs[1].fit.model_copy(update={"steps": 2})
    changed = runs[1].model_copy(update={"fit": refitted})
    fit(changed, map_here)
    with pytest.raises(StageOrderError, match="not those that were evaluated"):
        write_comparison(runs[0], changed, tmp_path, "test", 0)


def test_intervals_are_over_patients_where_the_data_set_knows_them(content, folder, runs):
    assert content["patients"] is None  # an npz names nobody
    assert "patients" not in said(content, folder)[0]
    first = ComparedRun.open(runs[0])
    shards = {work.shard.sha256 for work in first.fitted.target.works}
    assert first.patients(shards) is None


def test_patients_are_those_that_the_data_set_was_split_by(tmp_path):
    for seed in range(8):
        subject = tmp_path / "archive" / f"sub-{seed // 2:02d}"
        subject.mkdir(parents=True, exist_ok=True)
        write_nifti(subject / f"sub-{seed // 2:02d}_ses-{seed % 2}_T1w.nii.gz", (10, 9, 8), seed)
    data = {
        "source": str(tmp_path / "archive/*/*.nii.gz"),
        "shape": [8, 8, 8],
        "fractions": {"train": 0.5, "test": 0.5},
    }
    run = run_file(tmp_path, data=data)
    pack(run, map_here, lambda _: None)
    publish(run, network(run))
    fit(run, map_here)
    evaluate(run, map_here)
    opened = ComparedRun.open(run)
    patients = opened.patients({work.shard.sha256 for work in opened.fitted.target.works})
    assert patients is not None
    assert set(patients) == set(opened.scores["key"].to_pylist())
    assert sorted(Counter(patients.values()).values()) == [2, 2, 2, 2]
