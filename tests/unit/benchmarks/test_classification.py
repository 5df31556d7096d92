from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.classification import (
    CLUSTERS,
    METRIC,
    NETWORKS,
    SHORT,
    by_clusters,
    chosen_of,
    claims_of,
    measured,
    network_of,
    notes_of,
    rows_of,
    short_case,
    training,
    trial_of,
)
from benchmarks.classification_curves import draw
from benchmarks.common import Kept, rounded
from medfuncta_dist.probe.chosen_settings import folds

CASE = short_case()


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    """Both kinds, trained for a moment on made scans whose label is whether they are bright."""
    kept = Kept(None)
    for network in SHORT:
        learned = network_of(CASE, network, kept, None)
        kept.once(network.name, lambda n=network, m=learned: measured(CASE, n, m, whole=n == SHORT[0]))
    both = {n.name: {**kept.results[training(n)], **kept.results[n.name]} for n in SHORT}
    return json.loads(json.dumps(rounded(both, 6)))


def test_the_network_of_the_result_is_compared_with_as_many_numbers_of_pixels(found: dict[str, dict]) -> None:
    assert {network.kind for network in NETWORKS} == {network.kind for network in SHORT} == {"basis", "siren"}
    features = [{one["features"] for one in result["results"]} for result in found.values()]
    assert features == [{"latents", "pca", "pixels", METRIC, CLUSTERS}, {"latents"}]
    for result in found.values():
        assert [step for step, _, _ in result["curve"]][-1] in (3, 4)
        assert result["psnr"]["test"] > 0
    # Brightness is in the first component, and in any small scan.
    pixels = [one for one in found[SHORT[0].name]["results"] if one["features"] == "pixels"]
    assert max(one["scores"]["accuracy"]["value"] for one in pixels) > 0.8


def test_the_network_is_fixed_and_the_test_split_chooses_nothing(found: dict[str, dict]) -> None:
    name, chosen = chosen_of(found)
    assert name == SHORT[0].name
    rows = [one for one in found[name]["results"] if one["features"] == "latents" and one["trial_score"] is not None]
    tuned = [one for one in rows if one["classifier"] in ("k-nn", "linear", "mlp")]
    best = max(tuned, key=lambda one: one["trial_score"])
    assert chosen["trial_score"] >= best["trial_score"] - best["trial_error"]
    assert [one["chosen"] for one in rows].count(True) == 1
    worse = json.loads(json.dumps(found))
    for result in worse.values():
        for one in result["results"]:
            one["scores"]["accuracy"] = {"value": 0.0, "low": 0.0, "high": 0.0}
    again = chosen_of(worse)
    assert (again[0], again[1]["classifier"]) == (name, chosen["classifier"])


def test_a_cluster_of_like_scans_is_in_one_part() -> None:
    assert CASE.labels is not None
    draws = np.random.default_rng(0)
    places = np.repeat(10 * draws.normal(size=(2, 3)), 20, axis=0) + draws.normal(size=(40, 3)) / 100
    trial = by_clusters(trial_of(CASE.labels), places)
    assert trial.validation is None
    assert len(np.unique(trial.train.patients)) == 2
    for train, held_out in folds(trial.question, trial.train.described(places), 0):
        assert not set(trial.train.patients[train]) & set(trial.train.patients[held_out])


def test_a_trained_network_is_kept_and_gives_the_same_latents(tmp_path: Path) -> None:
    file, folder = tmp_path / "kept.jsonl", tmp_path / "kept"
    first = network_of(CASE, SHORT[0], Kept(file), folder)
    again = network_of(CASE, SHORT[0], Kept(file), folder)
    assert len(file.read_text().splitlines()) == 1
    assert np.array_equal(first.encode(CASE.scans.val), again.encode(CASE.scans.val))
    (folder / SHORT[0].file).unlink()
    with pytest.raises(SystemExit, match="is missing, though its training is kept"):
        network_of(CASE, SHORT[0], Kept(file), folder)


def test_claims_rows_and_notes_tell_the_same_numbers(found: dict[str, dict]) -> None:
    name, chosen = chosen_of(found)
    claims = {claim.what: claim for claim in claims_of(found[name], chosen)}
    accuracy = claims[f"{chosen['classifier']} on its latents: test accuracy"]
    assert (accuracy.measured, accuracy.target) == (chosen["scores"]["accuracy"]["value"], 0.891)
    assert len(claims) == 9
    rows = list(rows_of(found))
    assert len(rows) == 3 * 7 + 2 * 3 + 3
    assert {"test accuracy", "test auroc", "test brier"} <= set(rows[0])
    notes = " ".join(notes_of(CASE, found, chosen))
    assert f"Result: {name}, {chosen['classifier']}" in notes
    assert f"accuracy {accuracy.measured - 0.891:+.3f}" in notes


def test_the_curves_are_drawn(found: dict[str, dict], tmp_path: Path) -> None:
    draw({name: (one["kind"], one["curve"]) for name, one in found.items()}, 20.0, tmp_path / "curves.png")
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    assert picture.shape[1] > 800
    assert {(193, 68, 14), (11, 110, 153)} <= set(map(tuple, picture.reshape(-1, 3).tolist()))
