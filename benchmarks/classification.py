"""Latents as input of classifiers, on PneumoniaMNIST: the test split, against PCA of as many numbers and small scans.

Networks of both kinds and of several latent sizes are trained on the training split, all scans are fitted, and the
probe of the package is trained on the training split's latents. Everything that is chosen, a classifier's settings, the
classifier and the network, is what has the best AUROC on the validation split. The test split is scored once, with
intervals from resampled scans (the data set tells no patients), and beside it the same classifiers on PCA and on small
scans. Published: an MLP on MedFuncta's latents of the 64 x 64 version, 89.1 % accuracy and an F1 of .88.

Everything runs on one thread; seconds are those of the process. What is done is kept in ``--keep``, and not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common

# isort: split
import numpy as np
import torch

from benchmarks.common import Kept
from benchmarks.field_methods import Learned, decibel, trained
from benchmarks.field_sets import SETS, Case, Choice, Labels, basis_sections, made, run_of
from benchmarks.preset_scans import Scans, as_scans
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.probe.classifiers import TUNED
from medfuncta_dist.probe.pixel_features import codes_of
from medfuncta_dist.probe.probe_results import LATENTS, FeatureSet, Respondents, Trial, as_json, run_trial
from medfuncta_dist.probe.question import question_of

PUBLISHED = {"accuracy": 0.891, "macro_f1": 0.88}
SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece", "brier")
SPLITS = ("train", "val", "test")
WATCHED = (1 / 16, 1 / 4, 1)
"""Of the outer steps after which the PSNR is measured."""
FEW = 64
"""Validation scans that it is measured on, while training."""
FIT_STEPS = 3
"""Of Gauss-Newton, for the SIREN: the default, 10, takes three times as long for six thousand scans."""


@dataclass(frozen=True)
class Network:
    """What is trained. ``steps``: outer ones."""

    kind: str
    latent: int
    steps: int

    @property
    def name(self) -> str:
        """In a few words."""
        return f"{self.kind}, P = {self.latent}, {self.steps} steps"


NETWORKS = (
    Network("basis", 128, 200),
    Network("basis", 32, 200),
    Network("basis", 512, 200),
    Network("siren", 128, 200),
    Network("siren", 128, 1000),
)
SHORT = (Network("basis", 8, 4), Network("siren", 8, 3))


def main() -> None:
    """Train, classify, report."""
    began, options = time.perf_counter(), arguments()
    torch.set_num_threads(1)
    kept = Kept(None if options.short else options.keep)
    case = short_case() if options.short else whole_case(options.data)
    for network in options.networks:
        kept.once(network.name, lambda n=network: measured(case, n))
    found = {one.name: kept.results[one.name] for one in (*SHORT, *NETWORKS) if one.name in kept.results}
    chosen = chosen_of(found)
    claims = [] if options.short else claims_of(*chosen)
    common.report(
        "classification", options.short, began, found, claims, list(rows_of(found)), notes_of(case, found, *chosen)
    )


def arguments() -> argparse.Namespace:
    """``--short`` is the one of all benchmarks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", type=Path, help="PneumoniaMNIST's .npz file")
    parser.add_argument("--keep", type=Path, help="a file of what is done, to go on with")
    parser.add_argument("--kinds", nargs="+", choices=("basis", "siren"), default=("basis", "siren"))
    options = parser.parse_args()
    options.networks = [one for one in (SHORT if options.short else NETWORKS) if one.kind in options.kinds]
    if not options.short and not options.data:
        parser.error("it needs --data, PneumoniaMNIST's .npz file")
    return options


def whole_case(path: Path) -> Case:
    """All scans of all splits."""
    with np.load(path, allow_pickle=False) as file:
        scans = {s: as_scans(file[f"{s}_images"].reshape(-1, 28 * 28) / np.float32(255)) for s in SPLITS}
        labels = {split: file[f"{split}_labels"].ravel().astype(int) for split in SPLITS}
    return Case("pneumonia", SETS["pneumonia"], Scans((28, 28), **scans), labels)


def short_case() -> Case:
    """A few made scans."""
    return Case("pneumonia", *made("pneumonia", SETS["pneumonia"]))


def measured(case: Case, network: Network) -> dict[str, Any]:
    """Train and fit a network, and classify from its latents, PCA and small scans."""
    run, curve = run_file(case, network), list[tuple[int, float, float]]()

    def watch(step: int, seconds: float, so_far: Learned) -> None:
        curve.append((step, seconds, decibel(so_far, case.scans.val[:FEW])))

    watched = sorted({max(1, round(network.steps * share)) for share in WATCHED})
    method, seconds = trained(run, case.scans.train, watched, watch)
    assert case.labels is not None
    trial = trial_of(case.labels)
    results = as_json(trial, run_trial(trial, list(feature_sets(case, method)), lambda _: None))
    left_out = ("roc", "calibration", "by_label", "balanced")
    return {
        "seconds": seconds,
        "curve": curve,
        "psnr": {split: decibel(method, getattr(case.scans, split)) for split in ("val", "test")},
        "results": [{key: value for key, value in one.items() if key not in left_out} for one in results],
    }


def run_file(case: Case, network: Network) -> RunFile:
    """The settings that ``fields.py`` chose for both kinds on this data set, in another size."""
    if network.kind == "basis":
        features = max(case.set.start.features, network.latent)
        choice = Choice(features, 20.0, 5e-4, network.steps, 0.0, batch=case.set.start.batch)
        return run_of(case, basis_sections(case, choice, network.latent), 0, case.scans.shape)
    siren = case.set.siren
    field = {**siren["field"], "latent": network.latent}
    train = {**siren["train"], "steps": network.steps}
    sections = {**siren, "field": field, "train": train, "fit": {"steps": FIT_STEPS}}
    return run_of(case, sections, 0, case.scans.shape)


def trial_of(labels: Labels) -> Trial:
    """Settings are chosen on the validation split."""
    train, validation, test = (Respondents(labels[split], np.arange(len(labels[split]))) for split in SPLITS)
    return Trial(question_of(None), train, test, validation, TUNED, seed=0)


def feature_sets(case: Case, method: Learned) -> Iterator[FeatureSet]:
    """Latents, PCA and small scans, of all splits."""
    scans = {split: getattr(case.scans, split) for split in SPLITS}
    latents = {split: method.encode(part).numpy() for split, part in scans.items()}
    yield FeatureSet(LATENTS, latents["train"], latents["test"], latents["val"])
    pictures = {split: part.numpy().reshape(len(part), 1, *case.scans.shape) for split, part in scans.items()}
    flat = pictures["train"].reshape(len(pictures["train"]), -1).copy()
    codes = codes_of(flat, 1, case.scans.shape, latents["train"].shape[1])
    for name, encode in (("pca", codes.pca), ("pixels", codes.pixels)):
        yield FeatureSet(name, *(encode(pictures[split]) for split in ("train", "test", "val")))


Results = Mapping[str, Mapping[str, Any]]


def chosen_of(found: Results) -> tuple[str, Mapping[str, Any]]:
    """The network and classifier of the best AUROC on validation latents."""
    every = [(name, one) for name, result in found.items() for one in result["results"]]
    mine = [(n, one) for n, one in every if one["features"] == LATENTS and one["classifier"] in TUNED]
    return max(mine, key=lambda pair: pair[1]["trial_score"] or 0.0)


def claims_of(name: str, chosen: Mapping[str, Any]) -> list[common.Claim]:
    """Of the chosen one on the test split."""
    what = f"{name}, {chosen['classifier']}"
    scores = chosen["scores"]
    published = [
        common.Claim(f"{what}: test {key}", scores[key]["value"], bound, True) for key, bound in PUBLISHED.items()
    ]
    return published + [
        common.Claim(f"{what}: test {key} over {words}", differences[key]["value"], 0.0, True)
        for features, words in (("pca", "PCA of equal size"), ("pixels", "small scans"))
        for differences in [chosen["against"][features]]
        for key in ("accuracy", "macro_f1", "auroc")
    ]


def rows_of(found: Results) -> Iterator[dict[str, object]]:
    """A row per network, features and classifier."""
    for name, result in found.items():
        for one in result["results"]:
            settings = ", ".join(f"{key} {value}" for key, value in one["settings"].items())
            score = one["trial_score"]
            yield {
                "network": f"{name} ({result['seconds']:.0f} s, {result['psnr']['test']:.1f} dB)",
                "features": one["features"],
                "classifier": " ".join(filter(None, [one["classifier"], settings])),
                "validation AUROC": "–" if score is None else f"{score:.4f}",
                **{f"test {key}": interval(one["scores"][key]) for key in SHOWN},
            }


def curve_line(name: str, result: Mapping[str, Any]) -> str:
    """dB after CPU seconds of training."""
    return f"{name} " + ", ".join(f"{psnr:.1f} dB after {seconds:.0f} s" for _, seconds, psnr in result["curve"])


def interval(score: Mapping[str, float | None]) -> str:
    """Value and 95 % interval."""
    value, low, high = (score[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "–"
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


def notes_of(case: Case, found: Results, name: str, chosen: Mapping[str, Any]) -> Sequence[str]:
    """What the table has no room for."""
    assert case.labels is not None
    counts = "; ".join(f"{split} {' and '.join(map(str, np.bincount(case.labels[split])))}" for split in SPLITS)
    against = "; ".join(
        f"{features} " + ", ".join(f"{key} {interval(scores[key])}" for key in ("accuracy", "macro_f1", "auroc"))
        for features, scores in chosen["against"].items()
    )
    return [
        f"Scans of the classes 0 and 1 (normal and pneumonia): {counts}. Chosen on the validation split: {name}, "
        f"{chosen['classifier']} {chosen['settings']}.",
        f"Its differences on the same test scans, latents minus: {against}.",
        f"Validation PSNR ({FEW} scans) while training: {'; '.join(map(curve_line, found, found.values()))}.",
        "Published figures are of 64 × 64 scans, 2048 numbers and the published training split of 4708 scans; these "
        "scans have 28 × 28 points.",
        "k-nn, linear and mlp count both classes alike; the others count every scan alike. PSNR is of the test split; "
        "one seed. Small scans have about as many points as a latent has numbers, and all where that is more.",
        "CPU seconds are those of training. Intervals: 95 %, 1000 resamples of test scans; no patients are known.",
        "Networks may have been measured in several calls: the seconds below are those of the last.",
    ]


if __name__ == "__main__":
    main()
