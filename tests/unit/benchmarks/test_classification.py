from __future__ import annotations

import json

import pytest

from benchmarks.classification import NETWORKS, SHORT, chosen_of, claims_of, measured, notes_of, rows_of, short_case
from benchmarks.common import rounded

CASE = short_case()


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    """Both kinds, trained for a moment on made scans whose label is whether they are bright."""
    return {network.name: json.loads(json.dumps(rounded(measured(CASE, network), 6))) for network in SHORT}


def test_every_network_is_compared_with_as_many_numbers_of_pixels(found: dict[str, dict]) -> None:
    assert {network.kind for network in NETWORKS} == {network.kind for network in SHORT} == {"basis", "siren"}
    for result in found.values():
        features = {one["features"] for one in result["results"]}
        assert features == {"latents", "pca", "pixels"}
        assert [step for step, _, _ in result["curve"]][-1] in (3, 4)
        assert result["psnr"]["test"] > 0
    # Brightness is in the first component, and in any small scan.
    pixels = [one for one in found[SHORT[0].name]["results"] if one["features"] == "pixels"]
    assert max(one["scores"]["accuracy"]["value"] for one in pixels) > 0.8


def test_the_validation_split_chooses_and_the_test_split_does_not(found: dict[str, dict]) -> None:
    name, chosen = chosen_of(found)
    every = [one for result in found.values() for one in result["results"] if one["features"] == "latents"]
    scores = [one["trial_score"] for one in every if one["classifier"] in ("k-nn", "linear", "mlp")]
    assert chosen["trial_score"] == max(scores)
    worse = {key: {**value, "results": [dict(one) for one in value["results"]]} for key, value in found.items()}
    for result in worse.values():
        for one in result["results"]:
            one["scores"] = {**one["scores"], "accuracy": {"value": 0.0, "low": 0.0, "high": 0.0}}
    assert chosen_of(worse)[0] == name


def test_claims_rows_and_notes_tell_the_same_numbers(found: dict[str, dict]) -> None:
    name, chosen = chosen_of(found)
    claims = {claim.what: claim for claim in claims_of(name, chosen)}
    accuracy = claims[f"{name}, {chosen['classifier']}: test accuracy"]
    assert (accuracy.measured, accuracy.target) == (chosen["scores"]["accuracy"]["value"], 0.891)
    assert len(claims) == 8
    rows = list(rows_of(found))
    assert len(rows) == sum(len(result["results"]) for result in found.values())
    assert {"test accuracy", "test auroc", "test brier"} <= set(rows[0])
    notes = notes_of(CASE, found, name, chosen)
    assert name in notes[0]
    assert "dB after" in notes[2]
