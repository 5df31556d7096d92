"""Classification from latents alone: classifiers trained on one split and scored on another.

Features are standardised by the training split. The baseline is to answer always with the most frequent class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import locate_table
from medfuncta_dist.latents.table import latents_of
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Unfenced, publish_bytes

FORMAT_VERSION = 1
NO_LEASE = Unfenced("probe is not a stage, and the same latents always give the same result")
NEIGHBOURS = (1, 5)  # 1: as in the MedFuncta paper; 5: steadier where classes overlap
MOST_ITERATIONS = 2000  # of L-BFGS: standardised latents converge in a few hundred

Latents = Float[np.ndarray, "scan latent"]
Labels = Int[np.ndarray, " scan"]


@dataclass(frozen=True)
class Classified:
    """One classifier on the test split. Both numbers in 0..1; ``macro_f1`` counts every class alike."""

    classifier: str
    accuracy: float
    macro_f1: float


def probe(train: Latents, train_labels: Labels, test: Latents, test_labels: Labels) -> list[Classified]:
    """Train and score each classifier; the majority baseline comes first."""
    results = []
    for name, model in _classifiers(len(train)):
        predicted = model.fit(train, train_labels).predict(test)
        f1 = f1_score(test_labels, predicted, average="macro", zero_division=0)
        results.append(Classified(name, float(accuracy_score(test_labels, predicted)), float(f1)))
    return results


def probe_run(run: RunFile, train_split: str = "train", test_split: str = "test", label: int = 0) -> dict[str, Any]:
    """Probe a run's latents on their ``label``-th label, and write ``runs/<name>/report/probe.json``.

    RunFileError when a split has no labelled scans, or the training split a single class.
    """
    store = ObjectStore(run.storage)
    target = locate_table(run, store)
    columns = ["split", "labels", "latent"]
    rows = latent_ledger.load_table(store, target.folder, [train_split, test_split], columns, target.shards)
    train, test = (_labelled(rows, split, label) for split in (train_split, test_split))
    if len(set(train[1].tolist())) < 2:
        raise _unsuited(f"all labelled scans of split '{train_split}' have the same label", label)
    answer = {
        "format_version": FORMAT_VERSION,
        "label": label,
        "classes": sorted(set(train[1].tolist())),
        "scans": {train_split: len(train[1]), test_split: len(test[1])},
        "classifiers": [asdict(result) for result in probe(*train, *test)],
    }
    publish_bytes(store, NO_LEASE, f"runs/{run.name}/report/probe.json", canonical_json(answer))
    return answer


def describe(answer: dict[str, Any]) -> list[str]:
    """What ``probe_run`` found, as lines for people."""
    scans = ", ".join(f"{count} {split}" for split, count in answer["scans"].items())
    rows = [
        f"  {one['classifier']:<22} accuracy {one['accuracy']:.3f}   macro F1 {one['macro_f1']:.3f}"
        for one in answer["classifiers"]
    ]
    return [f"probe: {scans} scans", *rows]


def _classifiers(scans: int) -> list[tuple[str, Any]]:
    neighbours = [k for k in NEIGHBOURS if k <= scans]
    return [
        ("majority class", DummyClassifier(strategy="most_frequent")),
        *((f"{k}-NN", make_pipeline(StandardScaler(), KNeighborsClassifier(k))) for k in neighbours),
        ("logistic regression", make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_ITERATIONS))),
    ]


def _labelled(rows: pa.Table, split: str, label: int) -> tuple[Latents, Labels]:
    """Latents and labels of the split's scans that have the label."""
    labels = rows["labels"].to_pylist()
    names = rows["split"].to_pylist()
    kept = [i for i, (name, has) in enumerate(zip(names, labels, strict=True)) if name == split and len(has) > label]
    if not kept:
        raise _unsuited(f"no fitted scan of split '{split}' has a label", label)
    return latents_of(rows.take(kept)), np.array([labels[i][label] for i in kept])


def _unsuited(what: str, label: int) -> RunFileError:
    return RunFileError(what, where=f"label {label} of each scan", do="probe a data set whose source gives labels")
