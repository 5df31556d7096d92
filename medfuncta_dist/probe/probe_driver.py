"""A run's latents probed: scans read, pixels beside them, classifiers trained, and the results written.

Writes ``runs/<name>/report/``: ``probe.safetensors`` (the chosen model, where there is one), ``probe.png``, and
``probe.json``, last. All of it can be computed again from the latent table and the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting.whole_scans import locate_whole_scans
from medfuncta_dist.probe import probe_picture
from medfuncta_dist.probe.bootstrap import RESAMPLES
from medfuncta_dist.probe.chosen_settings import CRITERION, FOLDS
from medfuncta_dist.probe.classifiers import TUNED
from medfuncta_dist.probe.label_sources import explain_missing_labels
from medfuncta_dist.probe.pixel_features import STAGE, fit_codes, pixel_features
from medfuncta_dist.probe.probe_model import STORABLE, model_of, model_path
from medfuncta_dist.probe.probe_record import FORMAT_VERSION, record_path
from medfuncta_dist.probe.probe_results import (
    LATENTS,
    FeatureSet,
    Respondents,
    Result,
    Trial,
    as_json,
    best,
    described,
    run_trial,
)
from medfuncta_dist.probe.probed_scans import (
    MOST_SCANS,
    LatentSource,
    ProbedScans,
    grouping_of,
    number_of_labels,
    read_scans,
)
from medfuncta_dist.probe.question import Question, question_of, why_no_question
from medfuncta_dist.storage.digest import canonical_json, sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard, publish_bytes, withdraw
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

TARGETS = "an npz gives targets as `<split>_labels` that are no whole numbers; `--label` asks for classes"


@dataclass(frozen=True)
class ProbeOptions:
    """What is asked, and of whom. ``pixels``: whether the same is done on PCA and on small scans."""

    question: Question = field(default_factory=lambda: question_of(None))
    train_split: str = "train"
    test_split: str = "test"
    validation_split: str | None = None
    """Where settings are chosen; None: by cross-validation on the training split."""
    classifiers: Sequence[str] = TUNED
    seed: int = 0
    pixels: bool = True
    most_scans: int = MOST_SCANS
    """Of each split."""

    def check(self) -> None:
        """RunFileError for what cannot be."""
        unknown = sorted(set(self.classifiers) - set(TUNED))
        if unknown or not self.classifiers:
            what = f"{unknown[0]!r} is not a classifier" if unknown else "no classifier is named"
            raise RunFileError(what, where="--classifiers", do=f"name some of {', '.join(TUNED)}")
        held_out = {self.validation_split, self.test_split}
        if self.train_split in held_out or self.test_split == self.validation_split:
            what = "two of the splits for training, choosing and testing are the same"
            raise RunFileError(what, where="--train-split, --validation-split, --test-split", do="name different ones")


@dataclass(frozen=True, eq=False)
class _Asked:
    question: Question
    left_out: tuple[int, ...]
    """Labels that tell nothing."""
    splits: Sequence[ProbedScans]
    """For training and for testing, and the third, where there is one, for choosing."""

    @property
    def train(self) -> ProbedScans:
        return self.splits[0]


def probe_run(
    run: RunFile,
    options: ProbeOptions | None = None,
    on_progress: OnProgress = ignore_progress,
    *,
    fence: Guard = ALONE,
) -> dict[str, Any]:
    """Probe a run's latents; returns what ``probe.json`` holds.

    Raises:
        StageOrderError: nothing is fitted yet.
        RunFileError: a split has no fitted scan with such a label, or all training scans have the same.
        IntegrityError: a shard, an index or a part of the table is damaged.
        LeaseLostError: another driver has taken the run over.
    """
    options = options or ProbeOptions()
    options.check()
    store = ObjectStore(run.storage)
    source = LatentSource.open(store, WorkerSettings.of(run), locate_whole_scans(run, store, "a probe"))
    if not source.target.has_scans:
        options = replace(options, pixels=False)  # imported without scans: there is nothing to compare with
    asked = _ask(source, options, explain_missing_labels(run.data))
    sets, about = _features(source, asked, options, on_progress)
    trial = _trial(asked, options)
    results = run_trial(trial, sets, _reporter(len(sets), options, on_progress))
    chosen = best(results, STORABLE) or best(results, TUNED)
    assert chosen is not None
    model = _model_bytes(trial, chosen, source.target.network.digest)
    answer = {
        **_about(source, asked, options, about),
        "results": as_json(trial, results),
        "chosen": chosen.candidate.name,
        "model": model and {"file": "probe.safetensors", "sha256": sha256_bytes(model)},
    }
    _write(store, fence, run.name, answer, model, probe_picture.draw(trial, results, chosen.candidate.name))
    return answer


def describe(answer: dict[str, Any]) -> list[str]:
    """What ``probe_run`` found, as lines for people."""
    scans = ", ".join(f"{count} {split}" for split, count in answer["scans"].items())
    groups = answer["groups"]
    lines = [f"probe: {answer['question']['words']}, {scans} scans; intervals (95 %) by {groups['by']}"]
    if groups["also_in_training"]:
        lines.append(f"  {groups['also_in_training']} patients of the other splits are in the training split, too")
    return [*lines, *described(answer["results"])]


def _ask(source: LatentSource, options: ProbeOptions, advice: str) -> _Asked:
    question = options.question
    if question.kind == "labels" and not question.places:
        question = question.of(number_of_labels(source, options.train_split))
    names = [options.train_split, options.test_split, *filter(None, [options.validation_split])]
    splits = [_scans(source, split, question, options, advice) for split in names]
    if (why := why_no_question(question, *(one.answers for one in splits))) is not None:
        do = "probe a data set with scans of several classes, or more scans"
        raise RunFileError(f"{why} (split '{names[0]}')", where=f"{question.words} of each scan", do=do)
    asked = _Asked(question, (), splits)
    return asked if question.kind != "labels" else _without_equal_labels(asked)


def _without_equal_labels(asked: _Asked) -> _Asked:
    """Without the labels that are the same for all training scans; a single one that is left is a class."""
    answers, places = asked.train.answers, np.array(asked.question.places)
    varied = answers.min(axis=0) != answers.max(axis=0)
    left = tuple(places[varied].tolist())
    question = Question("labels" if len(left) > 1 else "classes", left)
    columns = varied if len(left) > 1 else int(varied.argmax())
    splits = [replace(one, answers=one.answers[:, columns]) for one in asked.splits]
    return _Asked(question, tuple(places[~varied].tolist()), splits)


def _scans(source: LatentSource, split: str, question: Question, options: ProbeOptions, advice: str) -> ProbedScans:
    found = read_scans(source, split, question, options.most_scans) if question.places else None
    if found is None:
        kind = "target" if question.kind == "target" else "label"
        where = f"{question.words} of each scan"
        do = TARGETS if question.kind == "target" else advice
        raise RunFileError(f"no fitted scan of split '{split}' has a {kind}", where=where, do=do)
    return found


def _features(
    source: LatentSource, asked: _Asked, options: ProbeOptions, on_progress: OnProgress
) -> tuple[list[FeatureSet], dict[str, Any]]:
    """Latents, and beside them the codes of pixels; and what is said of each."""
    numbers = asked.train.latents.shape[1]
    sets = [FeatureSet(LATENTS, *(one.latents for one in asked.splits))]
    about: dict[str, Any] = {LATENTS: {"numbers": numbers}}
    if not options.pixels:
        return sets, about
    codes = fit_codes(source.worker, asked.train.picks, numbers, on_progress)
    found = [pixel_features(source.worker, codes, one.picks, on_progress) for one in asked.splits]
    for name, said in codes.about().items():
        parts = [one[name] for one in found]
        if parts[0].shape[1]:  # a single training scan has no component
            sets.append(FeatureSet(name, *parts))
            about[name] = {"numbers": parts[0].shape[1], **said}
    return sets, about


def _trial(asked: _Asked, options: ProbeOptions) -> Trial:
    train, test, *validation = (Respondents(one.answers, one.patients) for one in asked.splits)
    return Trial(asked.question, train, test, validation[0] if validation else None, options.classifiers, options.seed)


def _reporter(sets: int, options: ProbeOptions, on_progress: OnProgress) -> Callable[[Result], None]:
    done, fixed = 0, {"classes": 4}.get(options.question.kind, 1)
    total = sets * (fixed + len(options.classifiers))

    def on_result(result: Result) -> None:
        nonlocal done
        done += 1
        notes: dict[str, float | str] = {"trained": f"{result.candidate.name} on {result.features}"}
        on_progress(ProgressReport(STAGE, min(done, total), total, notes))

    return on_result


def _model_bytes(trial: Trial, chosen: Result, network: str) -> bytes | None:
    """None where only k-NN was asked for: it would hold latents of patients."""
    name = chosen.candidate.name
    return model_of(chosen.fitted, trial.question, name, network).to_bytes() if name in STORABLE else None


def _about(source: LatentSource, asked: _Asked, options: ProbeOptions, features: dict[str, Any]) -> dict[str, Any]:
    question, target = asked.question, source.target
    return {
        "format_version": FORMAT_VERSION,
        "question": {"kind": question.kind, "places": list(question.places), "words": question.words},
        "labels_left_out": list(asked.left_out),
        "classes": _trial(asked, options).classes.tolist(),
        "splits": {
            "train": options.train_split,
            "validation": options.validation_split,
            "test": options.test_split,
        },
        "scans": {one.split: len(one) for one in asked.splits},
        "groups": grouping_of(*asked.splits),
        "chosen_by": "validation split" if options.validation_split else f"cross-validation in at most {FOLDS} parts",
        "criterion": CRITERION[question.kind],
        "resamples": RESAMPLES,
        "seed": options.seed,
        "dataset": target.snapshot.digest,
        "network": target.network.digest,
        "latents": target.folder,
        "features": features,
    }


def _write(
    store: ObjectStore, fence: Guard, run: str, answer: dict[str, Any], model: bytes | None, picture: bytes
) -> None:
    """The record last: what it names is there."""
    if model is not None:
        publish_bytes(store, fence, model_path(run), model)
    elif store.exists(model_path(run)):
        withdraw(store, fence, model_path(run))
    publish_bytes(store, fence, f"runs/{run}/report/probe.png", picture)
    publish_bytes(store, fence, record_path(run), canonical_json(answer))
