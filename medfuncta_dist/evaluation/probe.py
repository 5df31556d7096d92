"""Classification from latents alone: classifiers trained on one split and scored on another.

Features are standardised by the training split. The baseline is to answer always with the most frequent class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.label_sources import explain_missing_labels
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import locate_table
from medfuncta_dist.latents.table_format import latents_of
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
    asked = _Asked(label, explain_missing_labels(run.data), tuple(sorted(target.snapshot.splits)))
    train, test = (_labelled(rows, split, asked) for split in (train_split, test_split))
    if len(set(train[1].tolist())) < 2:
        what = f"all labelled scans of split '{train_split}' have the same label, and a classifier needs two"
        raise asked.refusal(what, "probe a data set with scans of several classes, or more scans")
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


@dataclass(frozen=True)
class _Asked:
    """Which label is asked for, what to do where it is missing, and the data set's splits."""

    label: int
    advice: str
    splits: tuple[str, ...]

    def refusal(self, what: str, do: str) -> RunFileError:
        return RunFileError(what, where=f"label {self.label} of each scan", do=do)


def _labelled(rows: pa.Table, split: str, asked: _Asked) -> tuple[Latents, Labels]:
    """Latents and labels of the split's scans that have the label."""
    there = rows.filter(pc.equal(rows["split"], split))
    labels = there["labels"].to_pylist()
    kept = [i for i, has in enumerate(labels) if len(has) > asked.label]
    if not there:
        do = f"`data.fractions`, `data.splits` or a table gives splits; this data set has {', '.join(asked.splits)}"
        raise asked.refusal(f"there is no fitted scan of split '{split}', which the probe needs", do)
    if not kept:
        raise asked.refusal(f"no fitted scan of split '{split}' has a label", asked.advice)
    return latents_of(there.take(kept)), np.array([labels[i][asked.label] for i in kept])
