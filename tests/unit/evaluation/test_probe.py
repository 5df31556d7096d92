from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.probe import probe, probe_run
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.kinds import BY_KIND
from tests.unit.latents.fitted import network, packed, publish, ready, run_file


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


def test_one_class_is_not_a_question(tmp_path: Path):
    run = run_file(tmp_path)
    packed(run, tmp_path, counts={"train": 1, "test": 2})
    publish(run, network(run))
    fit(run, map_here)
    with pytest.raises(RunFileError, match="the same label"):
        probe_run(run)
