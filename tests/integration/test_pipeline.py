"""The main path on a run file, S3 or a local folder, one Ray cluster. As commands where the process is the point, as
calls elsewhere: each command spends seconds on starting."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from medfuncta_dist.config.load import load
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.evaluation.decode import decode_to_file
from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.probe.probe_driver import probe_run
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.stages.report_again import report_command
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_record import read_progress
from tests import writers
from tests.integration.commands import Ended, command, finish, start
from tests.kinds import BY_KIND, KINDS
from tests.mapping_rows import read_mapping

pytestmark = pytest.mark.usefixtures("ray_cluster")

FIELDS: dict[str, dict[str, Any]] = {
    "siren": {
        "field": {"layers": 3, "hidden": 16, "latent": 16, "omega_first": 10, "omega_last": 30},
        "meta": {"inner_steps": 2, "inner_rate": 0.5, "selection_ratio": 0.5},
        "fit": {"steps": 4},
    },
    "basis": {
        "field": {"kind": "basis", "layers": 3, "hidden": 16, "latent": 16, "omega_first": 10, "omega_last": 30},
        "meta": {"selection_ratio": 0.5},
        "fit": {},
    },
}
TINY: dict[str, dict[str, Any]] = {
    "train": {"batch": 4, "steps": 6, "rate": 1e-3, "checkpoint_steps": 3, "validate_steps": 6, "validate_scans": 4},
    "fit": {"batch": 8, "scans_per_task": 16, "min_psnr": 0.0},
    "evaluate": {"pictures": 2},
    "telemetry": {"wandb": "offline"},
}


def write_run(folder: Path, name: str, storage: str, data: dict, kind: str = "siren", **sections: dict) -> str:
    """A run file in ``folder``; its path."""
    private = {"private": str(folder / "private")}
    cluster = {"cache": str(folder / "cache"), "cpus_per_worker": 1}
    whole = {"name": name, "storage": storage, "data": data | private, "cluster": cluster, **TINY}
    for section, keys in FIELDS[kind].items():
        whole[section] = whole.get(section, {}) | keys
    for section, keys in sections.items():
        whole[section] = whole.get(section, {}) | keys
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole))
    return str(path)


@pytest.fixture(scope="module", params=KINDS)
def images(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3: Callable[[], str]
) -> tuple[str, Ended]:
    """All four stages on labelled images, two training workers, S3: one command."""
    folder = tmp_path_factory.mktemp("images")
    writers.write_medmnist(folder / "images.npz", shape=(16, 16), counts={"train": 40, "val": 8, "test": 8})
    data = {"source": str(folder / "images.npz"), "shape": [16, 16]}
    run_file = write_run(folder, "images", s3(), data, request.param, cluster={"workers": 2})
    ended = command("run", run_file, "pack", "train", "fit", "evaluate")
    assert ended.code == 0, ended.stderr
    return run_file, ended


@pytest.fixture(scope="module")
def run(images: tuple[str, Ended]) -> RunFile:
    return load(images[0])


@pytest.fixture(scope="module")
def key(images: tuple[str, Ended]) -> str:
    return first_key(Path(images[0]).parent)


def first_key(folder: Path) -> str:
    """A key from the owner's private mapping."""
    return read_mapping(folder / "private")[0].key


def test_every_scan_is_accounted_for(images):
    run_file, ended = images
    assert ended.answer["pack"]["splits"] == {"train": 40, "val": 8, "test": 8}
    assert ended.answer["pack"]["counts"]["packed"] == 56
    assert ended.answer["fit"]["counts"] == {"packed": 56, "fitted": 56, "quarantined": 0, "flagged": 0}
    checked = verify_target(run_file, [])["runs"]["images"]
    counted = {"packed": 56, "fitted": 56, "quarantined": 0, "unfitted": 0}
    assert checked["latents"] == {**counted, "catalogue": "whole"}
    assert checked["checkpoints"] == {"whole": 2, "damaged": 0}


def test_damage_anywhere_is_found(run, images):
    """One flipped byte in a shard, in a checkpoint and in a latent part: three faults, each by its place."""
    store = ObjectStore(run.storage)
    paths = [
        next(o.path for o in store.list("") if o.path.endswith(suffix) and folder in o.path)
        for folder, suffix in (("/shards/", ".tar"), ("/checkpoints/", ".safetensors"), ("/parts/", ".parquet"))
    ]
    whole = {path: store.read(path) for path in paths}
    try:
        for path, data in whole.items():
            store.write(path, data[:200] + bytes([data[200] ^ 1]) + data[201:])
        with pytest.raises(IntegrityError, match="3 faults"):
            verify_target(images[0], [])
    finally:
        for path, data in whole.items():
            store.write(path, data)


def test_running_again_does_only_what_is_missing(run):
    again = run_stages(run, ["pack", "train", "fit"])
    assert again["pack"]["new_sources"] == 0
    assert again["train"]["first_step"] == again["train"]["steps"]
    assert again["fit"]["fitted_now"] == 0


def test_a_stage_that_is_refused_when_it_runs_again_stays_finished(run):
    before = read_progress(ObjectStore(run.storage), "images", "evaluate")
    assert before.finished is not None
    with pytest.raises(RunFileError, match="no scan of split 'tset'"):
        run_stages(run.model_copy(update={"evaluate": run.evaluate.model_copy(update={"split": "tset"})}), ["evaluate"])
    assert read_progress(ObjectStore(run.storage), "images", "evaluate") == before


def test_the_report_is_whole_and_names_no_file(run, images):
    report = ObjectStore(run.storage).read("runs/images/report/report.html").decode()
    assert report.count("data:image/png;base64,") >= 3
    assert "images.npz" not in report
    assert str(Path(images[0]).parent) not in report
    assert set(images[1].answer["evaluate"]["labels"]) == {"0", "1"}


def test_nothing_in_storage_but_the_run_file_names_a_source(run):
    store = ObjectStore(run.storage)
    named = [o.path for o in store.list("") if b"images.npz" in store.read(o.path)]
    assert named == ["runs/images/run.yaml"]


def test_a_key_decodes_at_another_resolution(run, key, tmp_path):
    found = decode_to_file(run, key[:12], tmp_path / "x.png", [32, 32])
    assert found["key"] == key
    assert Image.open(tmp_path / "x.png").size == (32, 32)


def test_latents_can_be_probed(run):
    assert probe_run(run)["scans"] == {"train": 40, "test": 8}


def test_the_report_is_written_again_with_the_probe_s_figures(run):
    probe_run(run)
    store, path = ObjectStore(run.storage), "runs/images/report/report.html"
    evaluated = store.read(path)
    assert report_command(run)["report"] == store.uri(path)
    again = store.read(path)
    assert b"Map of the latents" in again
    assert again != evaluated


@BY_KIND
@pytest.mark.slow
def test_an_ecg_goes_the_same_way(tmp_path, kind):
    writers.write_ecg_csv(tmp_path / "beats.csv", rows=48, samples=60)
    data = {"source": str(tmp_path / "beats.csv"), "reader": "ecg-csv", "shape": [60]}
    ecg = load(write_run(tmp_path, "ecg", str(tmp_path / "store"), data, kind))
    assert run_stages(ecg, ["pack", "train", "fit", "evaluate"])["fit"]["counts"]["fitted"] == 48
    decode_to_file(ecg, first_key(tmp_path), tmp_path / "beat.csv", [120])
    assert np.loadtxt(tmp_path / "beat.csv", delimiter=",").shape == (120,)


@BY_KIND
@pytest.mark.slow
def test_a_volume_goes_the_same_way_whole(tmp_path, kind):
    (tmp_path / "in").mkdir()
    for i in range(8):
        writers.write_nifti(tmp_path / "in" / f"{i}.nii.gz", shape=(12, 14, 10), seed=i)
    data = {"source": str(tmp_path / "in"), "shape": [8, 8, 8], "fractions": {"train": 1.0}}
    volumes = load(write_run(tmp_path, "volumes", str(tmp_path / "store"), data, kind, evaluate={"split": "train"}))
    run_stages(volumes, ["pack", "train", "fit", "evaluate"])
    decode_to_file(volumes, first_key(tmp_path), tmp_path / "v.nii.gz")
    assert nib.load(tmp_path / "v.nii.gz").shape == (8, 8, 8)


def test_one_unreadable_file_is_quarantined_and_the_rest_go_on(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(20):
        writers.write_png(tmp_path / "in" / f"patient-{i}.png", size=(16, 16), seed=i)
    (tmp_path / "in" / "patient-7.png").write_bytes(b"not a picture")
    data = {"source": str(tmp_path / "in"), "shape": [16, 16]}
    ended = command("pack", write_run(tmp_path, "one-bad", str(tmp_path / "store"), data))
    assert ended.code == 3, ended.stderr
    assert ended.answer["pack"]["counts"]["packed"] == 19
    assert ended.answer["quarantined"] == 1
    assert "patient-7" not in ended.stderr
    assert not [p for p in (tmp_path / "store").rglob("*") if p.is_file() and b"patient-7" in p.read_bytes()]


def test_fit_killed_and_run_again_is_byte_identical(tmp_path):
    """kill -9 of the driver in the middle: what was committed stays untouched, the rest is as if never killed."""
    writers.write_medmnist(tmp_path / "images.npz", shape=(16, 16), counts={"train": 200, "val": 4, "test": 4})
    data = {"source": str(tmp_path / "images.npz"), "shape": [16, 16]}
    slow = {"method": "sgd", "steps": 400, "scans_per_task": 8}
    path = write_run(tmp_path, "killed", str(tmp_path / "a"), data, fit=slow)
    run_stages(load(path), ["pack", "train"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    interrupted = start("fit", path)
    wait_for("runs/*/latents/*/commits/*.json", 3, tmp_path / "a", interrupted)
    interrupted.kill()
    interrupted.communicate()
    before = settled_commits(tmp_path / "a")
    assert 3 <= len(before) < 27
    again = run_stages(load(path), ["fit"])["fit"]
    assert again["counts"]["fitted"] == 208
    assert again["fitted_now"] < 208
    assert {commit: commit.stat().st_mtime_ns for commit in before} == before
    run_stages(load(path, [f"storage={tmp_path / 'b'}"]), ["fit"])
    assert latents(tmp_path / "a") == latents(tmp_path / "b")


@BY_KIND
@pytest.mark.slow
def test_a_terminated_command_says_that_it_can_be_resumed(tmp_path, kind):
    writers.write_medmnist(tmp_path / "images.npz", shape=(16, 16), counts={"train": 40, "val": 4, "test": 4})
    data = {"source": str(tmp_path / "images.npz"), "shape": [16, 16]}
    path = write_run(tmp_path, "stopped", str(tmp_path / "store"), data, kind, train={"steps": 100_000})
    run_stages(load(path), ["pack"])
    process = start("train", path)
    wait_for("runs/stopped/checkpoints/commits/*.json", 1, tmp_path / "store", process)
    process.terminate()
    ended = finish(process)
    assert ended.code == 5, ended.stderr
    assert "again" in ended.answer["error"]["do"]


@pytest.mark.slow
def test_a_run_that_has_used_its_hours_is_saved_and_goes_on_to_the_same_bits(tmp_path):
    """The hours are used before the workers are there: they begin, hear of it, save, and leave."""
    writers.write_medmnist(tmp_path / "images.npz", shape=(16, 16), counts={"train": 40, "val": 4, "test": 4})
    data = {"source": str(tmp_path / "images.npz"), "shape": [16, 16]}
    path = write_run(tmp_path, "hours", str(tmp_path / "a"), data, train={"steps": 1500, "checkpoint_steps": 1500})
    run_stages(load(path), ["pack"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    used = read_progress(ObjectStore(str(tmp_path / "a")), "hours", "pack").used_s / 3600
    limit = ("--set", f"kubernetes.max_hours={used + 0.001:.9f}")
    stopped = command("train", path, *limit)
    assert stopped.code == 5, stopped.stderr
    assert "stopping: the run has used" in stopped.stderr
    assert "(kubernetes.max_hours)" in stopped.answer["error"]["what"]
    assert "run the same command with a higher limit" in stopped.answer["error"]["do"]
    (saved,) = (tmp_path / "a/runs/hours/checkpoints/commits").glob("*.json")
    assert command("train", path, *limit).code == 5, "the hours of the first attempt count"
    assert list((tmp_path / "a/runs/hours/checkpoints/commits").glob("*.json")) == [saved]
    again = run_stages(load(path, ["kubernetes.max_hours=5"]), ["train"])["train"]
    assert 0 < again["first_step"] < again["steps"] == 1500
    whole = run_stages(load(path, [f"storage={tmp_path / 'b'}"]), ["train"])["train"]
    assert again["network_digest"] == whole["network_digest"]
    assert read_progress(ObjectStore(str(tmp_path / "a")), "hours", "train").used_s > 3.6


def wait_for(pattern: str, number: int, store: Path, process: subprocess.Popen[str]) -> None:
    """Until so many objects are there, the command still running."""
    deadline = time.monotonic() + 120
    while len(list(store.glob(pattern))) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def settled_commits(store: Path) -> dict[Path, int]:
    """Commit records and when they were written, once no task of the killed driver writes any more."""
    before: dict[Path, int] = {}
    for _ in range(60):
        time.sleep(2)
        now = {path: path.stat().st_mtime_ns for path in store.glob("runs/*/latents/*/commits/*.json")}
        if now == before:
            break
        before = now
    return before


def latents(store: Path) -> dict[str, Any]:
    """Every part of the latent table, byte for byte, and what each commit record says of its range.

    A record's name and generation tell which driver wrote it; that is not of the table.
    """
    root = store / "runs" / "killed" / "latents"
    found: dict[str, Any] = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.parquet")}
    for record in root.rglob("commits/*.json"):
        found[record.stem.split("-g")[0]] = json.loads(record.read_bytes())["body"]
    return found
