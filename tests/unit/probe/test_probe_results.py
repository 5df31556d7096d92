from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medfuncta_dist.probe.chosen_settings import Chosen
from medfuncta_dist.probe.probe_picture import draw
from medfuncta_dist.probe.probe_results import (
    LATENTS,
    FeatureSet,
    Respondents,
    Result,
    Trial,
    as_json,
    best,
    calibration,
    run_trial,
)
from medfuncta_dist.probe.question import Question

DRAWS = np.random.default_rng(0)
FEATURES = {split: DRAWS.normal(size=(count, 4)) for split, count in (("train", 90), ("test", 60))}
ANSWERS = {
    "classes": lambda x: np.digitize(x[:, 0], [-0.5, 0.5]),
    "labels": lambda x: (x[:, :2] > 0).astype(int),
    "target": lambda x: 3 * x[:, 0],
}


def results(kind: str) -> tuple[Trial, list[Result]]:
    """Latents that tell the answer, and pixels that do not."""
    question = Question(kind, (0, 1) if kind == "labels" else (0,))  # type: ignore[arg-type]
    train, test = (Respondents(ANSWERS[kind](x), np.arange(len(x))) for x in FEATURES.values())
    trial = Trial(question, train, test, None, ("linear",), seed=0)
    noise = [DRAWS.normal(size=x.shape) for x in FEATURES.values()]
    sets = [FeatureSet(LATENTS, FEATURES["train"], FEATURES["test"]), FeatureSet("pixels", *noise)]
    return trial, run_trial(trial, sets, lambda _: None)


@pytest.mark.parametrize("kind", ANSWERS)
def test_latents_that_tell_more_than_pixels_are_told_so(kind: str):
    trial, found = results(kind)
    rows = {(one["features"], one["classifier"]): one for one in as_json(trial, found)}
    linear, score = rows[LATENTS, "linear"], "r2" if kind == "target" else "auroc"
    assert linear["scores"][score]["value"] > 0.9
    ahead = linear["against"]["pixels"][score]
    assert ahead["value"] == pytest.approx(
        linear["scores"][score]["value"] - rows["pixels", "linear"]["scores"][score]["value"]
    )
    assert 0 < ahead["low"] < ahead["value"] < ahead["high"]
    assert rows["pixels", "linear"]["against"] == {}
    chosen = best(found, ("linear", "mlp"))
    assert chosen is not None
    assert (chosen.features, chosen.candidate.name) == (LATENTS, "linear")


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_picture_is_drawn_of_each_kind_of_question(kind: str):
    trial, found = results(kind)
    data = draw(trial, found, "linear")
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert picture.shape[1] > 1500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert data == draw(trial, found, "linear")


def test_curves_count_every_test_scan():
    trial, found = results("classes")
    one = as_json(trial, found)[-1]
    assert np.sum(one["confusion"]) == 60
    assert sum(bin_["scans"] for bin_ in one["calibration"]) == 60
    assert len(one["roc"]) == 51
    assert one["roc"][-1] == 1
    assert one["roc"] == sorted(one["roc"])


def test_bins_tell_how_often_their_probability_came_true():
    found = calibration(np.array([True, False, True, True]), np.array([0.55, 0.55, 0.99, 1.0]))
    assert [one["scans"] for one in found] == [2, 2]
    assert [one["true"] for one in found] == [0.5, 1.0]


def with_score(result: Result, name: str, score: float | None, error: float | None) -> Result:
    candidate = replace(result.candidate, name=name)
    return replace(result, candidate=candidate, chosen=Chosen(result.chosen.settings, score, error))


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"k-nn": 0.90, "linear": 0.90, "mlp": 0.91}, "linear"),
        ({"k-nn": 0.90, "linear": 0.80, "mlp": 0.91}, "k-nn"),
        ({"k-nn": 0.80, "linear": 0.80, "mlp": 0.91}, "mlp"),
        ({"k-nn": None, "linear": None, "mlp": None}, "k-nn"),
    ],
)
def test_the_simplest_classifier_that_is_hardly_worse_is_chosen(scores: dict[str, float | None], chosen: str):
    first = results("classes")[1][0]
    found = [with_score(first, name, score, score and 0.02) for name, score in scores.items()]
    pixels = replace(with_score(first, "linear", 0.99, 0.0), features="pixels")
    told = best([pixels, *found], ("linear", "mlp", "k-nn"))
    assert told is not None
    assert (told.features, told.candidate.name) == (LATENTS, chosen)


def test_test_scans_take_no_part_in_any_choice():
    question = Question("classes", (0,))
    train = Respondents(ANSWERS["classes"](FEATURES["train"]), np.arange(90))
    told = []
    for test in (FEATURES["test"], DRAWS.normal(size=(7, 4)) * 100):
        respondents = Respondents(np.arange(len(test)) % 3, np.zeros(len(test), int))
        trial = Trial(question, train, respondents, None, ("k-nn", "linear", "mlp"), seed=0)
        found = run_trial(trial, [FeatureSet(LATENTS, FEATURES["train"], test)], lambda _: None)
        chosen = best(found, ("k-nn", "linear", "mlp"))
        assert chosen is not None
        told.append(([one.chosen for one in found], chosen.candidate.name))
    assert told[0] == told[1]
    rows = as_json(trial, found)
    assert all(row["trial_error"] > 0 for row in rows if row["classifier"] == "linear")
