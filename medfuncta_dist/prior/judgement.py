"""Whether a prior copies training scans, and whether its samples teach a classifier what real scans teach.

Copies: the distance of each sample to the nearest training scan, in the network's metric, against that of each held-out
scan. A held-out scan is no copy of any training scan, so a prior that copies none has as many samples near one as there
are held-out scans near one; ``copied`` is the share of samples nearer than all but ``NEAREST`` of the held-out scans.
Held-out scans that are copies themselves (near-duplicates of training scans) are left out: they would excuse copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.neighbours.latent_metric import nearest_distances
from medfuncta_dist.neighbours.near_duplicates import LEAST_SCANS, typical
from medfuncta_dist.prior.drawing import Drawn
from medfuncta_dist.prior.prior_feed import ClassedLatents
from medfuncta_dist.probe.classifiers import candidates
from medfuncta_dist.probe.question import question_of

NEAREST = 0.01
"""Share of held-out scans that are nearer to a training scan than what counts as a copy: that much is chance."""
MOST_SAMPLES = 2000
"""Drawn to judge a prior by; a share of 1 % of them is known to 0.2 %."""


def judged_samples(train: ClassedLatents) -> int:
    """How many samples are to be judged: as many as there are training scans, within bounds."""
    return min(MOST_SAMPLES, max(64, len(train)))


def judge(
    drawn: Drawn,
    train: ClassedLatents,
    held_out: ClassedLatents,
    deviations: Float[Tensor, " number"],
    none: int,
) -> dict[str, Any]:
    """All figures, as ``prior.json`` has them. Distances are root mean square differences of values in [0, 1].

    RunFileError where all held-out scans are training scans.
    """
    samples, scans, others = (one * deviations for one in (drawn.whitened, train.whitened, held_out.whitened))
    of_samples, of_others = (nearest_distances(some.numpy(), scans.numpy()) for some in (samples, others))
    unlike = _unlike(of_others)
    close = float(np.quantile(unlike, NEAREST))
    return {
        "samples": len(samples),
        "held_out": len(others),
        "held_out_copies": len(others) - len(unlike),
        "nearest_to_samples": _spread(of_samples),
        "nearest_to_held_out": _spread(of_others),
        "close": close,
        "copied": float((of_samples < close).mean()),
        "by_chance": NEAREST,
        "probe": _probed(drawn, train, held_out, none),
    }


def why_refused(judgement: Mapping[str, Any], most_copied: float) -> str | None:
    """Why no samples of a prior that was judged so are given out; None where they are. A ``most_copied`` of 1 allows
    everything."""
    told_by = judgement["held_out"] - judgement["held_out_copies"]
    if told_by < LEAST_SCANS and most_copied < 1:
        return f"only {told_by} held-out scans judge this prior, and nothing tells a copy from a new scan by so few"
    if judgement["copied"] <= most_copied:
        return None
    return (
        f"{judgement['copied']:.1%} of {judgement['samples']} samples of this prior are as near to a training scan as "
        f"only {judgement['by_chance']:.0%} of held-out scans are: it may show scans of patients"
    )


def _unlike(of_others: Float[np.ndarray, " scan"]) -> Float[np.ndarray, " other"]:
    """The distances without those of near-duplicates of training scans."""
    found = of_others[of_others > typical(of_others).threshold]
    if not len(found):
        raise RunFileError(
            "all held-out scans are copies of training scans, so nothing tells a copy from a new scan",
            where="the latents of the splits other than 'train'",
            do="pack a data set with other scans in these splits; `medfuncta-dist near-duplicates` lists the pairs",
        )
    return found


def _spread(distances: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(distances, [0.05, 0.5, 0.95]).tolist()
    return {"p05": low, "median": middle, "p95": high}


def _probed(drawn: Drawn, train: ClassedLatents, held_out: ClassedLatents, none: int) -> dict[str, Any] | None:
    """The probe's classifiers trained on real scans and on as many samples, and tested on held-out scans; None where
    there are not two classes to tell apart."""
    sets = [_labelled(one.whitened, one.classes, none) for one in (train, drawn, held_out)]
    if any(len(np.unique(labels)) < 2 for _, labels in sets):
        return None
    count = min(len(sets[0][1]), len(sets[1][1]))
    real, samples = (_some(*one, count) for one in sets[:2])
    return {
        "scans": count,
        "held_out": len(sets[2][1]),
        "trained_on_real": _classified(real, sets[2]),
        "trained_on_samples": _classified(samples, sets[2]),
    }


def _classified(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> list[dict[str, str | float]]:
    """Each of the probe's classifiers that has no settings to choose, trained and scored; logistic regression is the
    last."""
    found: list[dict[str, str | float]] = []
    for one in candidates(question_of(None), (), len(train[0]), seed=0):
        predicted, scored = one.pipeline.fit(*train).predict(test[0]), test[1]
        f1 = float(f1_score(scored, predicted, average="macro", zero_division=0))
        accuracy = float(accuracy_score(scored, predicted))
        found.append({"classifier": one.name, "accuracy": accuracy, "macro_f1": f1})
    return found


def _labelled(whitened: Tensor, classes: Tensor, none: int) -> tuple[np.ndarray, np.ndarray]:
    kept = classes != none
    return whitened[kept].numpy(), classes[kept].numpy()


def _some(features: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many rows, evenly chosen."""
    rows = np.arange(count) * len(labels) // count
    return features[rows], labels[rows]
