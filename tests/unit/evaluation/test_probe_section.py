from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medfuncta_dist.evaluation.probe_section import chosen_row, probe_section, read_probe
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.evaluation.test_report import Page

FOLDER = "runs/r/latents/a-b"
RATES = np.sqrt(np.linspace(0, 1, 51)).tolist()


def score(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def row(features: str, classifier: str, trial: float | None, **changes: Any) -> dict[str, Any]:
    """A classifier as docs/formats.md describes it."""
    known: dict[str, Any] = {
        "features": features,
        "classifier": classifier,
        "trial_score": trial,
        "scores": {"accuracy": score(0.9), "macro_f1": score(0.88), "auroc": score(0.95)},
        "confusion": [[40, 10], [5, 45]],
        "by_label": None,
        "roc": RATES,
    }
    return {**known, **changes}


def probe(**changes: Any) -> dict[str, Any]:
    rows = [
        row("latents", "majority class", None),
        row("latents", "linear", 0.9),
        row("latents", "mlp", 0.8, confusion=[[1, 2], [3, 4]]),
        row("pca", "linear", 0.99),
    ]
    known: dict[str, Any] = {
        "format_version": 3,
        "question": {"kind": "classes", "places": [0], "words": "label 1"},
        "classes": [0, 7],
        "scans": {"train": 300, "test": 100},
        "groups": {"by": "patient"},
        "latents": FOLDER,
        "results": rows,
        "chosen": "linear",
    }
    return {**known, **changes}


def shown(found: dict[str, Any] | None, labelled: bool = True) -> Page:
    return Page(probe_section(found, FOLDER, labelled) or "")


def test_scores_curves_and_confusion_are_shown():
    page = shown(probe())
    assert page.open == []
    for told in ("300 train, 100 test", "0.900", "0.880 to 0.920", "AUROC", "taken for 7", "40 80 %", "45 90 %"):
        assert told in " ".join(page.words.split()), told
    (curves,) = page.images
    assert "linear on each kind of features" in curves["alt"]


def test_the_probe_s_choice_is_shown_else_the_best_on_training_scans_among_those_on_latents():
    rows = probe()["results"]
    assert chosen_row(rows, "mlp")["classifier"] == "mlp"
    assert chosen_row(rows, None)["classifier"] == "linear"
    assert chosen_row([row("pca", "mlp", 1.0), row("latents", "k-nn", None)], None)["classifier"] == "k-nn"


def test_several_labels_have_a_table_of_their_own():
    labels = [
        {"label": 3, "scans": 17, "scores": {"auroc": 0.812}},
        {"label": 5, "scans": 0, "scores": {"auroc": None}},
    ]
    words = shown(probe(results=[row("latents", "linear", 0.9, by_label=labels, confusion=None)])).words
    assert "by label" in words
    assert "0.812" in words


def test_what_a_probe_does_not_have_is_left_out():
    numbers = row("latents", "linear", 0.5, confusion=None, roc=None, scores={"r2": score(0.4)})
    page = shown(probe(results=[numbers], classes=[]))
    assert "R²" in page.words
    assert "accuracy" not in page.words
    assert not page.images
    assert "confusion" not in page.words
    many = row("latents", "linear", 0.5, confusion=np.eye(40, dtype=int).tolist())
    assert "confusion" not in shown(probe(results=[many])).words


def test_a_score_without_a_value_is_a_dash():
    none = row("latents", "linear", 0.5, scores={"accuracy": {"value": None, "low": None, "high": None}})
    assert "–" in shown(probe(results=[none])).words


def test_without_a_probe_it_is_said_how_to_get_one_where_there_are_labels():
    words = shown(None).words
    assert "medfuncta-dist probe RUN.yaml" in words
    assert "medfuncta-dist report RUN.yaml" in words
    assert probe_section(None, FOLDER, False) is None


def test_a_probe_of_other_latents_of_another_version_or_damaged_is_not_shown():
    for other in (
        probe(latents="runs/r/latents/c-d"),
        {"format_version": 1},
        {},
        probe(results=[{}]),
        probe(classes=[0]),
    ):
        words = shown(other).words
        assert "of other latents, of another version, or damaged" in words
        assert "AUROC" not in words


def test_it_is_read_from_the_report_of_the_run(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    assert read_probe(store, "r") is None
    store.write("runs/r/report/probe.json", b'{"format_version": 1}')
    assert read_probe(store, "r") == {"format_version": 1}
    store.write("runs/r/report/probe.json", b"[]")
    assert read_probe(store, "r") == {}
