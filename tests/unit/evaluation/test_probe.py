from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.label_sources import explain_missing_labels
from medfuncta_dist.evaluation.probe import probe, probe_run
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.kinds import BY_KIND
from tests.unit.latents.fitted import network, packed, publish, ready, run_file
from tests.writers import write_png


def latents(labels: np.ndarray, seed: int, scale: float = 1.0) -> np.ndarray:
    """Two clusters far apart in the first number; the others are noise, one of them loud."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), 6)).astype(np.float32)
    noise[:, 0] = 0.2 * noise[:, 0] + labels * 2
    noise[:, 5] *= scale
    return noise


def test_classifiers_find_what_latents_hold_and_the_majority_does_not():
    train, test = np.arange(200) % 3 == 0, np.arange(60) % 3 == 0
    results = {r.classifier: r for r in probe(latents(train, 0, 100.0), train, latents(test, 1, 100.0), test)}
    assert list(results) == ["majority class", "1-NN", "5-NN", "logistic regression"]
    assert results["majority class"].accuracy == pytest.approx(2 / 3)
    assert results["majority class"].macro_f1 == pytest.approx(0.4)
    # The loud number would drown the telling one, were the latents not standardised.
    assert min(results[name].accuracy for name in ("5-NN", "logistic regression")) > 0.9


def test_labels_that_latents_know_nothing_of_stay_near_chance():
    train, test = np.arange(200) % 2, np.arange(400) % 2
    noise = np.random.default_rng(0).normal(size=(600, 6))
    for result in probe(noise[:200], train, noise[200:], test):
        assert 0.4 < result.accuracy < 0.6


@BY_KIND
def test_a_run_is_probed_from_its_table_and_the_answer_kept(tmp_path, kind):
    run = ready(tmp_path, kind)
    fit(run, map_here)
    answer = probe_run(run)
    assert answer["scans"] == {"train": 22, "test": 9}
    assert answer["classes"] == [0, 1]
    assert all(0 <= c["accuracy"] <= 1 for c in answer["classifiers"])
    assert json.loads(ObjectStore(run.storage).read("runs/small/report/probe.json")) == answer


def test_a_label_that_no_scan_has_is_refused(tmp_path):
    run = ready(tmp_path)
    fit(run, map_here)
    with pytest.raises(RunFileError, match="no fitted scan of split 'train' has a label"):
        probe_run(run, label=1)
    with pytest.raises(RunFileError, match="no fitted scan of split 'gap'"):
        probe_run(run, test_split="gap")


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


def test_each_place_that_labels_come_from_is_named(tmp_path: Path) -> None:
    def said(**data: object) -> str:
        return explain_missing_labels(run_file(tmp_path, data=data).data)

    assert said().startswith("an npz gives them as `train_labels`")
    assert "`data.csv.label`" in said(source="s3://b/*.csv", shape=[187])
    assert "`data.csv.label`" in said(source="s3://b/signals/", reader="ecg-csv", shape=[187])
    assert said(source="s3://b/v1.csv/scans/").startswith("these files hold none"), "a folder, whatever its name"
    both = said(source=None, splits={"train": ["a/*.npz", "b/*.png"], "test": "c/*.npz"})
    assert both.startswith("an npz gives")
    assert "; these files hold none" in both
    assert "drop` packs a file without labels" in said(identifying_labels="drop")
    table = {"path": "t.csv", "label": ["class", {"column": "sex", "categories": ["F", "M"]}]}
    assert said(table=table).startswith("fill the table's column 'class', 'sex'")
    assert said(group={"table": "t.csv", "label": "class"}).startswith("fill the table's column 'class'")


def test_one_class_is_not_a_question(tmp_path: Path):
    run = run_file(tmp_path)
    packed(run, tmp_path, counts={"train": 1, "test": 2})
    publish(run, network(run))
    fit(run, map_here)
    with pytest.raises(RunFileError, match="the same label"):
        probe_run(run)
