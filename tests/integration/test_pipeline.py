"""The main path as a user walks it: commands on a run file, S3 or a local folder, one Ray cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from medfuncta_dist.storage.object_store import ObjectStore
from tests import writers
from tests.integration.commands import Ended, command, finish, start

pytestmark = pytest.mark.usefixtures("ray_cluster")

TINY = {
    "field": {"layers": 3, "hidden": 16, "latent": 16, "omega_first": 10, "omega_last": 30},
    "meta": {"inner_steps": 2, "inner_rate": 0.5, "selection_ratio": 0.5},
    "train": {"batch": 4, "steps": 6, "rate": 1e-3, "checkpoint_steps": 3, "validate_steps": 6, "validate_scans": 4},
    "fit": {"steps": 4, "batch": 8, "scans_per_task": 16, "min_psnr": 0.0},
    "evaluate": {"pictures": 2},
    "telemetry": {"wandb": "offline"},
}


def write_run(folder: Path, name: str, storage: str, data: dict, **sections: dict) -> str:
    """A run file in ``folder``; its path."""
    private = {"private": str(folder / "private")}
    cluster = {"cache": str(folder / "cache"), "cpus_per_worker": 1}
    whole = {"name": name, "storage": storage, "data": data | private, "cluster": cluster, **TINY}
    for section, keys in sections.items():
        whole[section] = whole.get(section, {}) | keys
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole))
    return str(path)


def ended_well(ended: Ended) -> Ended:
    assert ended.code == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, s3: Callable[[], str]) -> tuple[str, Ended]:
    """All four stages on labelled images, two training workers, S3."""
    folder = tmp_path_factory.mktemp("images")
    writers.write_medmnist(folder / "images.npz", shape=(16, 16), counts={"train": 40, "val": 8, "test": 8})
    data = {"source": str(folder / "images.npz"), "shape": [16, 16]}
    run_file = write_run(folder, "images", s3(), data, cluster={"workers": 2})
    return run_file, command("run", run_file, "pack", "train", "fit", "evaluate")


def test_every_scan_is_accounted_for(images):
    run_file, ended = images
    ended_well(ended)
    answer = ended.answer
    assert answer["pack"]["splits"] == {"train": 40, "val": 8, "test": 8}
    assert answer["pack"]["counts"]["packed"] == 56
    assert answer["fit"]["counts"] == {"packed": 56, "fitted": 56, "quarantined": 0, "flagged": 0}
    checked = ended_well(command("verify", run_file)).answer["runs"]["images"]
    assert checked["latents"] == {"packed": 56, "fitted": 56, "quarantined": 0}
    assert checked["checkpoints"]["whole"] >= 1


def test_running_again_does_only_what_is_missing(images):
    run_file, _ = images
    again = ended_well(command("run", run_file, "pack", "train", "fit"))
    assert again.answer["pack"]["new_sources"] == 0
    assert again.answer["fit"]["fitted_now"] == 0


def test_the_report_is_whole_and_names_no_file(images):
    run_file, ended = images
    store = ObjectStore(yaml.safe_load(Path(run_file).read_text())["storage"])
    report = store.read("runs/images/report/report.html").decode()
    assert report.count("data:image/png;base64,") >= 3
    assert "images.npz" not in report
    assert str(Path(run_file).parent) not in report
    assert set(ended.answer["evaluate"]["labels"]) == {"0", "1"}


def test_nothing_in_storage_but_the_run_file_names_a_source(images):
    run_file, _ = images
    store = ObjectStore(yaml.safe_load(Path(run_file).read_text())["storage"])
    named = [o.path for o in store.list("") if b"images.npz" in store.read(o.path)]
    assert named == ["runs/images/run.yaml"]


def test_a_key_decodes_at_another_resolution(images, tmp_path):
    run_file, _ = images
    keys = (Path(run_file).parent / "private" / "mapping.csv").read_text().splitlines()[1:]
    key = keys[0].split(",")[0]
    ended = ended_well(
        command("decode", run_file, "--key", key[:12], "--out", str(tmp_path / "x.png"), "--shape", "32x32")
    )
    assert ended.answer["key"] == key
    assert Image.open(tmp_path / "x.png").size == (32, 32)


def test_latents_can_be_probed(images):
    run_file, _ = images
    ended = ended_well(command("probe", run_file))
    assert ended.answer["scans"] == {"train": 40, "test": 8}


def test_an_ecg_goes_the_same_way(tmp_path):
    writers.write_ecg_csv(tmp_path / "beats.csv", rows=48, samples=60)
    data = {"source": str(tmp_path / "beats.csv"), "reader": "ecg-csv", "shape": [60]}
    run_file = write_run(tmp_path, "ecg", str(tmp_path / "store"), data)
    ended = ended_well(command("run", run_file, "pack", "train", "fit", "evaluate"))
    assert ended.answer["fit"]["counts"]["fitted"] == 48
    key = (tmp_path / "private" / "mapping.csv").read_text().splitlines()[1].split(",")[0]
    ended_well(command("decode", run_file, "--key", key, "--out", str(tmp_path / "beat.csv"), "--shape", "120"))
    assert np.loadtxt(tmp_path / "beat.csv", delimiter=",").shape == (120,)


def test_a_volume_goes_the_same_way_whole(tmp_path):
    for i in range(8):
        writers.write_nifti(tmp_path / "v" / f"{i}.nii.gz", shape=(12, 14, 10), seed=i)
    data = {"source": str(tmp_path / "v"), "shape": [8, 8, 8], "fractions": {"train": 1.0}}
    run_file = write_run(tmp_path, "volumes", str(tmp_path / "store"), data, evaluate={"split": "train"})
    ended_well(command("run", run_file, "pack", "train", "fit", "evaluate"))
    key = (tmp_path / "private" / "mapping.csv").read_text().splitlines()[1].split(",")[0]
    ended_well(command("decode", run_file, "--key", key, "--out", str(tmp_path / "v.nii.gz")))


def test_one_unreadable_file_is_quarantined_and_the_rest_go_on(tmp_path):
    for i in range(20):
        writers.write_png(tmp_path / "in" / f"patient-{i}.png", size=(16, 16), seed=i)
    (tmp_path / "in" / "patient-7.png").write_bytes(b"not a picture")
    data = {"source": str(tmp_path / "in"), "shape": [16, 16]}
    run_file = write_run(tmp_path, "one-bad", str(tmp_path / "store"), data)
    ended = command("pack", run_file)
    assert ended.code == 3, ended.stderr
    assert ended.answer["pack"]["counts"]["packed"] == 19
    assert ended.answer["quarantined"] == 1
    assert "patient-7" not in ended.stderr
    assert not [p for p in (tmp_path / "store").rglob("*") if p.is_file() and b"patient-7" in p.read_bytes()]


def test_fit_killed_and_run_again_is_byte_identical(images, tmp_path):
    """kill -9 of the driver in the middle: what was committed stays untouched, the rest is as if never killed."""
    writers.write_medmnist(tmp_path / "images.npz", shape=(16, 16), counts={"train": 200, "val": 4, "test": 4})
    data = {"source": str(tmp_path / "images.npz"), "shape": [16, 16]}
    slow = {"steps": 400, "scans_per_task": 8}
    run_file = write_run(tmp_path, "killed", str(tmp_path / "a"), data, fit=slow)
    ended_well(command("run", run_file, "pack", "train"))
    copy_tree(tmp_path / "a", tmp_path / "b")
    interrupted = start("fit", run_file)
    commits = wait_for_commits(tmp_path / "a", interrupted)
    interrupted.send_signal(signal.SIGKILL)
    interrupted.communicate()
    time.sleep(3)  # tasks that Ray had already started end with their driver
    before = {path: path.stat().st_mtime_ns for path in commits()}
    assert 0 < len(before) < 27
    again = ended_well(command("fit", run_file))
    assert again.answer["fit"]["counts"]["fitted"] == 208
    assert again.answer["fit"]["fitted_now"] == 208 - 8 * len(before) or again.answer["fit"]["fitted_now"] < 208
    assert {path: path.stat().st_mtime_ns for path in before} == before
    ended_well(command("fit", run_file, "--set", f"storage={tmp_path / 'b'}"))
    assert latents(tmp_path / "a") == latents(tmp_path / "b")


def wait_for_commits(store: Path, process) -> Callable[[], list[Path]]:
    def commits() -> list[Path]:
        return sorted(store.glob("runs/*/latents/*/commits/*.json"))

    deadline = time.monotonic() + 120
    while len(commits()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return commits


def latents(store: Path) -> dict[str, bytes]:
    """Every object of the latent table by path."""
    root = store / "runs" / "killed" / "latents"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def copy_tree(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


def test_a_terminated_command_says_that_it_can_be_resumed(tmp_path):
    writers.write_medmnist(tmp_path / "images.npz", shape=(16, 16), counts={"train": 40, "val": 4, "test": 4})
    data = {"source": str(tmp_path / "images.npz"), "shape": [16, 16]}
    run_file = write_run(tmp_path, "stopped", str(tmp_path / "store"), data, train={"steps": 100_000})
    ended_well(command("pack", run_file))
    process = start("train", run_file)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").glob("runs/stopped/checkpoints/commits/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 5, ended.stderr
    assert "again" in ended.answer["error"]["do"]
