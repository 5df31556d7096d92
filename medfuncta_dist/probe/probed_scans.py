"""The scans that a probe is trained or scored on: latents, answers, patients, and where the pixels are.

Read shard by shard, part by part: memory holds what is kept of them, at most ``most_scans`` scans a split, taken evenly
from every shard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.evaluation.baselines import evenly
from medfuncta_dist.evaluation.original_scans import Pick, read_samples
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation, require_scans
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.latents.table_format import latents_of, read_part
from medfuncta_dist.probe.question import Answers, Question
from medfuncta_dist.scans.patient_group import IN_FILE, NOT_TOLD
from medfuncta_dist.shards.snapshot import Shard, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.worker_settings import WorkerSettings

MOST_SCANS = 2**16
MOST_BYTES = 2**29
"""Of a split's latents, as float32; the classifiers work on two copies of them."""
WITHOUT_PATIENT = {"", *NOT_TOLD, IN_FILE[1]}
"""How a group was found where nobody told the patient."""


@dataclass(frozen=True, eq=False)
class ProbedScans:
    """Scans of one split, in the order of its shards."""

    split: str
    latents: Float[np.ndarray, "scan latent"]
    answers: Answers
    groups: Sequence[str]
    """The key of each scan's patient, or of its examination; the scan's own where neither is known."""
    without_patient: int
    """Scans whose patient is not known."""
    picks: tuple[Pick, ...]

    def __len__(self) -> int:
        return len(self.picks)

    @property
    def patients(self) -> Int[np.ndarray, " scan"]:
        """Equal numbers for scans that belong together."""
        return np.unique(np.asarray(self.groups), return_inverse=True)[1]


@dataclass(frozen=True)
class LatentSource:
    """A latent table, open: what ``read_scans`` reads from."""

    store: ObjectStore
    worker: WorkerSettings
    target: TableLocation
    commits: Mapping[str, Sequence[Commit]]
    """By SHA-256 of the shard, in the order of its rows."""

    @classmethod
    def open(cls, store: ObjectStore, worker: WorkerSettings, target: TableLocation) -> LatentSource:
        """Reads the commit records. StageOrderError where nothing is fitted."""
        commits: dict[str, list[Commit]] = {}
        for commit in latent_ledger.read_commits(store, target.folder).values():
            if commit.part is not None and commit.shard in target.shards:
                commits.setdefault(commit.shard, []).append(commit)
        if not commits:
            raise StageOrderError(
                "there are no latents yet", where=store.uri(target.folder), do="run the fit stage first"
            )
        ordered = {shard: sorted(found, key=lambda one: one.start) for shard, found in commits.items()}
        return cls(store, worker, target, ordered)

    def shards(self, split: str) -> list[Shard]:
        """Those with fitted scans. RunFileError where there are none."""
        found = [shard for shard in self.target.snapshot.splits.get(split, ()) if shard.sha256 in self.commits]
        if not found:
            splits = ", ".join(sorted(self.target.snapshot.splits))
            raise RunFileError(
                f"there is no fitted scan of split '{split}', which the probe needs",
                where="the run's latent table",
                do=f"`data.fractions`, `data.splits` or a table gives splits; this data set has {splits}",
            )
        return found


class _Place(NamedTuple):
    row: int
    group: str
    by: str


_UNKNOWN = _Place(-1, "", "")


@dataclass
class _Collected:
    latents: list[np.ndarray] = field(default_factory=list)
    answers: list[tuple[float, ...]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)


def read_scans(source: LatentSource, split: str, question: Question, most: int = MOST_SCANS) -> ProbedScans | None:
    """The split's scans that have the answers; None where no scan has.

    Labels are in the latent table. Targets are not: they are read from the samples, which the shards hold.
    RunFileError where the split has no fitted scan; IntegrityError where anything is damaged.
    """
    shards, found = source.shards(split), _Collected()
    total = sum(shard.samples for shard in shards)
    for shard in shards:
        for part in _parts(source, shard):
            most_that_fit = MOST_BYTES // (4 * part["latent"].type.list_size)
            _collect(source, shard, part, question, min(1.0, min(most, most_that_fit) / total), found)
    if not found.picks:
        return None
    answers = np.array(found.answers, np.float64 if question.kind == "target" else np.int64)
    answers = answers if question.kind == "labels" else answers[:, 0]
    without = sum(way in WITHOUT_PATIENT for way in found.ways)
    return ProbedScans(split, np.concatenate(found.latents), answers, found.groups, without, tuple(found.picks))


def number_of_labels(source: LatentSource, split: str) -> int:
    """Of the split's first scan that has any; 0 where none has."""
    for shard in source.shards(split):
        for commit in source.commits[shard.sha256]:
            assert commit.part is not None
            labels = read_part(source.store, source.target.folder, commit.part, ["labels"])["labels"].to_pylist()
            if any(labels):
                return next(len(one) for one in labels if one)
    return 0


def _parts(source: LatentSource, shard: Shard) -> Iterator[pa.Table]:
    """Rows of one part after the other, with their place in the shard and their group."""
    places = _places(source, shard)
    for commit in source.commits[shard.sha256]:
        assert commit.part is not None
        part = read_part(source.store, source.target.folder, commit.part, ["key", "labels", "latent"])
        there = [places.get(key, _UNKNOWN) for key in part["key"].to_pylist()]
        for name, values in zip(_Place._fields, zip(*there, strict=True), strict=True):
            part = part.append_column(name, pa.array(values))
        yield part


def _places(source: LatentSource, shard: Shard) -> dict[str, _Place]:
    """By key, as the shard's index tells; of latents that were imported without scans nothing is known."""
    if not source.target.has_scans:
        return {}
    index = read_index(source.store, shard)
    keys = index["key"].to_pylist()
    known = "group" in index.column_names
    groups, ways = (index[name].to_pylist() if known else [""] * len(keys) for name in ("group", "group_by"))
    return {key: _Place(row, *whose) for row, (key, *whose) in enumerate(zip(keys, groups, ways, strict=True))}


def _collect(
    source: LatentSource, shard: Shard, part: pa.Table, question: Question, share: float, found: _Collected
) -> None:
    answers = _answers(source, shard, part, question)
    there = [i for i, answer in enumerate(answers) if answer is not None]
    kept = evenly(there, math.ceil(share * len(there)))
    if not kept:
        return
    chosen = part.take(kept)
    found.latents.append(latents_of(chosen))
    found.answers += [answer for i in kept if (answer := answers[i]) is not None]
    keys, groups = chosen["key"].to_pylist(), chosen["group"].to_pylist()
    found.groups += [group or key for group, key in zip(groups, keys, strict=True)]
    found.ways += chosen["by"].to_pylist()
    found.picks += [Pick(shard, row) for row in chosen["row"].to_pylist()]


def _answers(source: LatentSource, shard: Shard, part: pa.Table, question: Question) -> list[tuple[float, ...] | None]:
    if question.kind != "target":
        return [question.answer(labels) for labels in part["labels"].to_pylist()]
    require_scans(source.target)
    store, cache = source.worker.open()
    picks = [Pick(shard, row) for row in part["row"].to_pylist()]
    return [question.answer(sample.targets) for sample in read_samples(store, cache, picks)]


def grouping_of(*splits: ProbedScans) -> dict[str, Any]:
    """How scans are grouped for resampling and cross-validation, as JSON; the training split is the first."""
    scans, without = sum(map(len, splits)), sum(one.without_patient for one in splits)
    by = "patient" if not without else "scan" if without == scans else "patient where known, else scan"
    names = [set(one.groups) for one in splits]
    shared = sum(group in names[0] for group in set().union(*names[1:])) if len(names) > 1 else 0
    return {"by": by, "scans_without_patient": without, "also_in_training": shared}
