from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist import LatentTable
from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, LeaseLostError, RunFileError, RunHeldError
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.probe.probe_driver import ProbeOptions, describe, probe_run
from medfuncta_dist.probe.probe_model import ProbeModel
from medfuncta_dist.probe.probe_record import read_probe
from medfuncta_dist.probe.question import question_of
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.stages.probe_command import probe_command
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.kinds import BY_KIND
from tests.unit.latents.fitted import LATENT, network, packed, publish, ready, run_file
from tests.writers import write_png


def options(label: str | None = None, target: int | None = None, **changes: object) -> ProbeOptions:
    return ProbeOptions(question=question_of(label, target), **changes)  # type: ignore[arg-type]


def values_of(answer: dict, features: str, name: str) -> dict[str, float]:
    """Scores by classifier."""
    rows = [one for one in answer["results"] if one["features"] == features]
    return {one["classifier"]: one["scores"][name]["value"] for one in rows}


@BY_KIND
def test_a_run_is_probed_from_its_table_and_the_answer_kept(tmp_path, kind):
    run = ready(tmp_path, kind)
    fit(run, map_here)
    answer = probe_run(run)
    assert answer["scans"] == {"train": 22, "test": 9}
    assert answer["classes"] == [0, 1]
    assert answer["groups"] == {"by": "scan", "scans_without_patient": 31, "also_in_training": 0}
    assert answer["features"]["latents"] == {"numbers": LATENT}
    assert answer["features"]["pca"] == {"numbers": 21, "training_scans": 22}
    assert answer["features"]["pixels"] == {"numbers": 25, "shape": [5, 5]}
    names = ["majority class", "1-NN", "5-NN", "logistic regression", "k-nn", "linear", "mlp"]
    for features in ("latents", "pca", "pixels"):
        accuracy = values_of(answer, features, "accuracy")
        assert list(accuracy) == names
        assert accuracy["majority class"] == pytest.approx(5 / 9)
        assert all(0 <= one <= 1 for one in accuracy.values())
    store = ObjectStore(run.storage)
    assert read_probe(store, "small") == answer == json.loads(store.read("runs/small/report/probe.json"))
    assert store.read("runs/small/report/probe.png").startswith(b"\x89PNG")
    assert "intervals (95 %) by scan" in describe(answer)[0]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    store, kept = ObjectStore(run.storage), []
    for _ in range(2):
        probe_run(run)
        kept.append([store.read(f"runs/small/report/probe.{end}") for end in ("json", "png", "safetensors")])
    assert kept[0] == kept[1]


def test_the_stored_model_answers_as_the_probe_did(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    answer = probe_run(run)
    model = ProbeModel.open(run.storage, run.name)
    assert model.classifier == answer["chosen"] in ("linear", "mlp")
    assert model.network == answer["network"]
    table = LatentTable.open(run, splits=["test"])
    right = model.predict(table.latents).argmax(1) == np.array([labels[0] for labels in table.labels])
    assert right.mean() == pytest.approx(values_of(answer, "latents", "accuracy")[answer["chosen"]])


def test_a_model_that_the_record_does_not_name_is_not_opened(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    store, path = ObjectStore(run.storage), "runs/small/report/probe.safetensors"
    probe_run(run, options(classifiers=("linear",), pixels=False))
    former = store.read(path)
    probe_run(run, options(classifiers=("mlp",), pixels=False))
    store.write(path, former)  # whole, but of another probe
    with pytest.raises(IntegrityError, match=r"not the one that probe\.json names"):
        ProbeModel.open(run.storage, run.name)


def test_the_command_holds_the_run(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    asked = options(classifiers=("linear",), pixels=False)
    with hold_lease(ObjectStore(run.storage), run_lease(run.name), 60, run.name), pytest.raises(RunHeldError):
        probe_command(run, asked)
    assert "probe.safetensors" in probe_command(run, asked)["said"][-1]


def test_a_probe_that_lost_the_run_writes_nothing(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    store = ObjectStore(run.storage)
    with hold_lease(store, run_lease(run.name), 60, run.name) as lost:
        pass
    with pytest.raises(LeaseLostError):
        probe_run(run, options(classifiers=("linear",), pixels=False), fence=lost)
    assert not store.list("runs/small/report")


def test_a_model_of_patients_latents_is_never_stored(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    probe_run(run)
    store = ObjectStore(run.storage)
    assert store.exists("runs/small/report/probe.safetensors")
    answer = probe_run(run, options(classifiers=("k-nn",), pixels=False))
    assert answer["model"] is None
    assert set(answer["features"]) == {"latents"}
    assert not store.exists("runs/small/report/probe.safetensors"), "it would be of another probe"


def test_settings_may_be_chosen_on_a_split_of_their_own(tmp_path: Path):
    run = run_file(tmp_path)
    packed(run, tmp_path, counts={"train": 20, "val": 10, "test": 8})
    publish(run, network(run))
    fit(run, map_here)
    answer = probe_run(run, options(validation_split="val", classifiers=("linear",), pixels=False))
    assert answer["scans"] == {"train": 20, "test": 8, "val": 10}
    assert answer["chosen_by"] == "validation split"
    assert answer["results"][-1]["trial_score"] is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classifiers": ("forest",)}, "'forest' is not a classifier"),
        ({"classifiers": ()}, "no classifier is named"),
        ({"test_split": "train"}, "are the same"),
        ({"validation_split": "test"}, "are the same"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(tmp_path: Path, changes: dict, words: str):
    with pytest.raises(RunFileError, match=words):
        probe_run(run_file(tmp_path), options(**changes))


def test_a_label_that_no_scan_has_is_refused(tmp_path):
    run = ready(tmp_path)
    fit(run, map_here)
    for label in ("1", "0,1"):
        with pytest.raises(RunFileError, match="no fitted scan of split 'train' has a label"):
            probe_run(run, options(label))
    with pytest.raises(RunFileError, match="no fitted scan of split 'train' has a target"):
        probe_run(run, options(target=0))
    with pytest.raises(RunFileError, match="no fitted scan of split 'gap'"):
        probe_run(run, options(test_split="gap"))


def written(run: RunFile, folder: Path, labels: Callable[[np.ndarray], np.ndarray]) -> None:
    """Bright and dark scans of 12 x 12, with labels made from how bright they are."""
    draws, members = np.random.default_rng(0), {}
    for split, count in (("train", 60), ("test", 30)):
        bright = draws.uniform(0.2, 1, count)
        scans = bright[:, None, None] * (0.5 + 0.5 * draws.uniform(size=(count, 12, 12)))
        members |= {f"{split}_images": np.rint(scans * 255).astype(np.uint8), f"{split}_labels": labels(bright)}
    (folder / "archive").mkdir()
    np.savez(folder / "archive" / "scans.npz", **members)
    pack(run, map_here, lambda progress: None)
    publish(run, network(run))
    fit(run, map_here)


def test_several_labels_are_asked_for_at_once(tmp_path: Path):
    run = run_file(tmp_path, data={"intensity": {"mode": "dtype"}})

    def labels(bright: np.ndarray) -> np.ndarray:
        return np.stack([bright > 0.5, np.ones_like(bright), bright > 0.8], 1).astype(np.uint8)

    written(run, tmp_path, labels)
    answer = probe_run(run, options("all"))
    assert answer["question"] == {"kind": "labels", "places": [0, 2], "words": "labels 0, 2"}
    assert answer["labels_left_out"] == [1], "it is the same for all"
    linear = next(one for one in answer["results"] if (one["features"], one["classifier"]) == ("pixels", "linear"))
    assert [one["label"] for one in linear["by_label"]] == [0, 2]
    assert linear["scores"]["auroc"]["value"] > 0.9
    assert linear["scores"]["auroc"]["value"] == pytest.approx(
        np.mean([one["scores"]["auroc"] for one in linear["by_label"]])
    )
    assert ProbeModel.open(run.storage, run.name).predict(LatentTable.open(run).latents).shape == (90, 2)
    with pytest.raises(RunFileError, match="all of them have the same label"):
        probe_run(run, options("1"))


def test_targets_are_read_from_the_shards_and_predicted(tmp_path: Path):
    run = run_file(tmp_path, data={"intensity": {"mode": "dtype"}})
    # Steps of .05: numbers that nearly all differ would look like identifiers.
    written(run, tmp_path, lambda bright: 20 + np.round(60 * bright / 3) * 1.5)
    answer = probe_run(run, options(target=0))
    assert answer["question"]["kind"] == "target"
    assert values_of(answer, "pixels", "r2")["linear"] > 0.9
    assert values_of(answer, "pixels", "r2")["training mean"] <= 0
    assert values_of(answer, "pixels", "mae")["linear"] < 3
    predicted = ProbeModel.open(run.storage, run.name).predict(LatentTable.open(run).latents)
    assert predicted.shape == (90,)
    assert predicted.min() > 0
    assert "R²" in describe(answer)[1]


def test_a_data_set_without_labels_says_where_labels_come_from(tmp_path: Path) -> None:
    run = run_file(
        tmp_path, data={"source": str(tmp_path / "archive" / "*.png"), "fractions": {"train": 0.5, "test": 0.5}}
    )
    (tmp_path / "archive").mkdir()
    for n in range(12):
        write_png(tmp_path / "archive" / f"{n}.png", size=(12, 12), seed=n)
    pack(run, map_here, lambda progress: None)
    publish(run, network(run))
    fit(run, map_here)
    (tmp_path / "run.yaml").write_text(dump(run))
    shown = subprocess.run(
        [sys.executable, "-m", "medfuncta_dist.cli.app", "probe", str(tmp_path / "run.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2, shown.stderr
    for words in ("split 'train' has a label", "these files hold none", "names of folders", "data.table: {path:"):
        assert words in shown.stderr


def test_one_class_is_not_a_question(tmp_path: Path):
    run = run_file(tmp_path)
    packed(run, tmp_path, counts={"train": 1, "test": 2})
    publish(run, network(run))
    fit(run, map_here)
    with pytest.raises(RunFileError, match="the same label"):
        probe_run(run)
