"""Empty, damaged and foreign files in every place that a run reads at start.

Whatever lies there, a stage either goes on as if it did not, or ends with an error in words that names the object and
says what to do. It never starts a finished thing again from nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.submission_id import JOB_VARIABLE
from medfuncta_dist.errors import IntegrityError, MedfunctaError, RunFileError
from medfuncta_dist.fields.siren import init_params
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.network.committed_network import commit_network, committed_network
from medfuncta_dist.network.core_settings import field_spec
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.run.frozen_run_file import freeze
from medfuncta_dist.run.idempotency import Submission
from medfuncta_dist.run.terminal_record import recording_final_failure
from medfuncta_dist.stages import run_summary
from medfuncta_dist.stages.preflight import check_network, pinned_snapshot
from medfuncta_dist.storage.digest import canonical_json, digest_json
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import EventLog, history
from medfuncta_dist.training.attempt import Attempt, next_attempt
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoints, Facts
from medfuncta_dist.training.checkpoints.training_state import AdamState
from tests.unit.latents.fitted import packed, run_file

pytestmark = pytest.mark.fault("foreign-files")

SECTIONS: dict[str, Any] = {
    "field": {"layers": 3, "hidden": 16, "latent": 24, "omega_first": 5.0, "omega_last": 10.0},
    "meta": {"chunk_points": 64, "chunk_scans": 2},
    "train": {"batch": 4},
}
SHAPES = {"layer.1.weight": (3, 2)}
FIRST = Attempt(1, "0000000001-20260101T000000-aaaa")
KEY = "the same request"
JOB = "small-fit-1"


def save(store: ObjectStore, step: int, attempt: Attempt = FIRST) -> None:
    """A checkpoint of a tiny state."""
    checkpoints = Checkpoints(store, "small", attempt, keep=5, fence=ALONE)
    state = {name: AdamState(*(torch.full(shape, float(step)) for _ in range(3))) for name, shape in SHAPES.items()}
    facts = Facts(step, 0, step, "d" * 64, "r" * 64, "f" * 64, zero_stage=0, world_size=1, code_version="0")
    checkpoints.commit(facts, [checkpoints.write_share(step, 0, 1, state)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has left something in every place."""
    folder = tmp_path_factory.mktemp("finished")
    run = run_file(folder, **SECTIONS)
    packed(run, folder)
    store = ObjectStore(run.storage)
    run, _ = freeze(run, store, fence=ALONE)
    params = init_params(field_spec(run), torch.Generator().manual_seed(0))
    trained = Trained(field_spec(run), params)
    commit_network(store, run, pinned_snapshot(run, store, fence=ALONE), trained, loss=0.1, psnr=20.0, fence=ALONE)
    fit(run, map_here)
    for step in (10, 20):
        save(store, step)
    log = EventLog(store, "small", FIRST.name, flush_s=0)
    log.log(10, {"loss": 0.5})
    log.close()
    run_summary.merge(store, "small", "fit", {"psnr": 30.0}, fence=ALONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JOB_VARIABLE, JOB)
        with pytest.raises(RunFileError), recording_final_failure(store, "small"):
            raise RunFileError("it said no", do="mend it")
    return folder


@dataclass
class Place:
    """The folder of a run, moved, and the stages as drivers of this process."""

    folder: Path
    run: RunFile
    said: list[str]

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(self.run.storage)

    def path(self, pattern: str) -> Path:
        """The last file that matches, in storage or beside it."""
        return sorted(p for p in self.folder.glob(pattern) if p.is_file())[-1]

    def start(self) -> Any:
        freeze(self.run, self.store, fence=ALONE)
        return run_summary.load(self.store, "small")["fit"]

    def pack(self) -> Any:
        return pack(self.run, map_here, lambda _: None).snapshot_digest

    def train(self) -> Any:
        """What a worker group does before its first step."""
        snapshot = pinned_snapshot(self.run, self.store, fence=ALONE)
        attempt = next_attempt(self.store, "small", fence=ALONE)
        found = Checkpoints(self.store, "small", attempt, keep=5, fence=ALONE).restore_latest(SHAPES, self.said.append)
        assert found is not None, "training begins again from nothing"
        curve = history(self.store, "small", notify=self.said.append)
        return snapshot.digest, attempt.generation, found.facts.step, curve

    def trained(self) -> Any:
        done = committed_network(self.store, "small")
        return done.digest if done else None

    def fit(self) -> Any:
        check_network(self.run, self.store)
        summary = fit(self.run, map_here)
        return summary.counts, summary.network_digest, summary.fitted_now

    def lease(self) -> Any:
        take(self.store, run_lease("small"), 0.2, self.said.append).give_back()

    def submit(self) -> Any:
        return Submission.of(self.run, ["fit"], KEY).answer(self.store)

    def retry(self) -> Any:
        """A submitted job that is tried again, after it has ended for good."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(JOB_VARIABLE, JOB)
            with recording_final_failure(self.store, "small"):
                raise AssertionError("it was tried again")


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Place:
    """A copy to damage. Paths are part of a source's identity below its pattern only, so a copy is the same run."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    frozen = folder / "storage/runs/small/run.yaml"
    frozen.write_text(frozen.read_text().replace(str(finished), str(folder)))
    run = run_file(folder, **SECTIONS)
    claim = take(ObjectStore(run.storage), run_lease("small"), 5.0, lambda _: None)
    Submission.of(run, ["fit"], KEY).record(ObjectStore(run.storage), claim.fence, {"done": True})
    claim.give_back()
    return Place(folder, run, [])


def other_kind(data: bytes) -> bytes:
    """A valid record, of something else."""
    record = {"format_version": 1, "kind": "other", "generation": 0, "body": {"digest": 1}}
    return canonical_json(record | {"digest": digest_json(record)})


def newer(data: bytes) -> bytes:
    """The same as a newer version might have written it: its digest is right."""
    try:
        whole = json.loads(data)
    except ValueError:
        whole = json.loads(data.splitlines()[0])
    whole["format_version"] = 99
    if "kind" in whole and "body" in whole:
        whole.pop("digest", None)
        whole["digest"] = digest_json(whole)
    return canonical_json(whole) + b"\n"


def lacking(data: bytes) -> bytes:
    """A valid record of the right kind that says nothing."""
    whole = json.loads(data)
    whole["body"] = {}
    whole.pop("digest", None)
    return canonical_json(whole | {"digest": digest_json(whole)})


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "noise": lambda _: bytes((i * i * 31 + 7) % 256 for i in range(3000)),
    "cut": lambda data: data[: len(data) // 2],
    "null": lambda _: b"null",
    "list": lambda _: b"[1, 2, 3]\n",
    "nested": lambda _: b"[" * 100_000,
    "other kind": other_kind,
    "newer": newer,
    "lacking": lacking,
    "huge": lambda _: b"",
}
RECORD = ("empty", "noise", "cut", "null", "list", "nested", "other kind", "newer", "lacking", "huge")
JSON = ("empty", "noise", "cut", "null", "list", "nested", "other kind", "newer", "huge")
BYTES = ("empty", "noise", "cut", "other kind", "huge")

REFUSED, IGNORED, PASSED_OVER = "refused", "ignored", "passed over, and said"
HUGE = 2**40
"""Bytes of a file without content: reading it would take all memory there is."""

PLACES: list[tuple[str, str, tuple[str, ...], str]] = [
    ("start", "storage/runs/small/run.yaml", (*BYTES, "null", "list", "nested"), REFUSED),
    ("start", "storage/runs/small/summary.json", JSON, REFUSED),
    ("lease", "storage/runs/small/lease.json", RECORD, REFUSED),
    ("retry", "storage/runs/small/terminal/*.json", RECORD, REFUSED),
    ("submit", "storage/runs/small/submissions/*.json", RECORD, REFUSED),
    ("pack", "storage/datasets/small/dataset.json", RECORD, REFUSED),
    ("pack", "storage/datasets/small/packs/*.json", RECORD, REFUSED),
    ("pack", "storage/datasets/small/commits/*.json", RECORD, REFUSED),
    ("pack", "storage/datasets/small/snapshots/*.json", JSON, REFUSED),
    ("pack", "private/salt", BYTES, REFUSED),
    ("pack", "private/mapping.sqlite", ("noise", "cut", "other kind"), REFUSED),
    ("train", "storage/runs/small/pin.json", RECORD, REFUSED),
    ("train", "storage/datasets/small/commits/*.json", RECORD, REFUSED),
    ("train", "storage/datasets/small/snapshots/*.json", JSON, REFUSED),
    ("train", "storage/runs/small/checkpoints/commits/000000020-*.json", RECORD, PASSED_OVER),
    ("train", "storage/runs/small/checkpoints/000000020-*/rank-0-of-1.safetensors", BYTES, PASSED_OVER),
    ("train", "storage/runs/small/events/*.jsonl", JSON, PASSED_OVER),
    ("trained", "storage/runs/small/network/commit.json", RECORD, REFUSED),
    ("fit", "storage/runs/small/network/commit.json", RECORD, REFUSED),
    ("fit", "storage/runs/small/network/*/network.json", JSON, REFUSED),
    ("fit", "storage/runs/small/network/*/network.safetensors", BYTES, REFUSED),
    ("fit", "storage/runs/small/latents/*/commits/*.json", RECORD, REFUSED),
    ("fit", "storage/datasets/small/commits/*.json", RECORD, REFUSED),
    ("fit", "storage/datasets/small/snapshots/*.json", JSON, REFUSED),
]
CASES = [
    pytest.param(*p[:2], fault, p[3], id=f"{p[0]}-{p[1].split('/', 1)[1]}-{fault}") for p in PLACES for fault in p[2]
]


def damage(path: Path, fault: str) -> None:
    data = FAULTS[fault](path.read_bytes())
    path.write_bytes(data)
    if fault == "huge":
        with path.open("r+b") as file:
            file.truncate(HUGE)


def refused(stage: Callable[[], Any], path: Path, folder: Path) -> None:
    """It ends with an error in words, which names the object (or the folder that it is one of) and says what to do."""
    with pytest.raises(MedfunctaError) as caught:
        stage()
    error_text = str(caught.value)
    assert str(path.relative_to(folder)) in error_text or str(path.parent.relative_to(folder)) in error_text, error_text
    assert caught.value.do, error_text


@pytest.mark.parametrize(("stage", "pattern", "fault", "expected"), CASES)
def test_a_damaged_file_is_refused_by_name_or_passed_over_and_said(
    place: Place, stage: str, pattern: str, fault: str, expected: str
) -> None:
    path, run_stage = place.path(pattern), getattr(place, stage)
    damage(path, fault)
    if expected == REFUSED or (fault == "newer" and "events" not in pattern):
        refused(run_stage, path, place.folder)
    else:
        run_stage()
        assert place.said


def test_each_stage_runs_where_nothing_is_damaged(place: Place, measured: Callable[[str], None]) -> None:
    """Without this, every refusal above could have another cause."""
    measured(f"{len(PLACES)} places, {len(CASES)} pairs of place and fault")
    place.start()
    place.lease()
    assert place.submit() == {"done": True}
    assert place.trained()
    assert place.train()[1:] == (2, 20, [(10, 0.5)])
    packed = place.pack()
    assert packed == place.train()[0]
    assert place.fit()[2] == 0
    with pytest.raises(RunFileError, match="it said no"):
        place.retry()
    assert place.said == []


@pytest.mark.parametrize("fault", BYTES)
@pytest.mark.parametrize("part", ["commits/*.json", "0*/*.safetensors"])
def test_training_never_begins_again_from_nothing(place: Place, part: str, fault: str) -> None:
    for path in place.folder.glob(f"storage/runs/small/checkpoints/{part}"):
        damage(path, fault)
    with pytest.raises(IntegrityError, match="none of the 2 checkpoints is whole") as caught:
        place.train()
    assert caught.value.where.endswith("runs/small/checkpoints")
    assert caught.value.do
    assert len(place.said) == 2


def test_a_driver_finds_what_the_driver_before_saved(place: Place) -> None:
    """The names of attempts must stay readable whatever the lease's token is: it begins with the Unix time."""
    for step in (30, 40):
        claim = take(place.store, run_lease("fresh"), 0.2, place.said.append)
        attempt = next_attempt(place.store, "small", claim.fence)
        found = Checkpoints(place.store, "small", attempt, keep=5, fence=ALONE).restore_latest(
            SHAPES, place.said.append
        )
        assert found is not None
        assert found.facts.step == step - 10
        save(place.store, step, attempt)
        claim.give_back()
    assert place.said == []


FOREIGN = [
    ".DS_Store",
    "Thumbs.db",
    "notes (1).txt",
    "x.json.bak",
    "a\nb",
    "%s",
    "\N{SNOWMAN}",
    ".tmp-0123",
    "-rf",
    " ",
    "lost+found/x",
]


@pytest.mark.parametrize("stage", ["start", "lease", "pack", "train", "trained", "fit"])
def test_foreign_files_and_folders_beside_change_nothing(place: Place, stage: str) -> None:
    expected = getattr(place, stage)()
    for folder in {path.parent for path in place.folder.rglob("*") if path.is_file() and "archive" not in path.parts}:
        for name in FOREIGN:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"foreign")
    found = getattr(place, stage)()
    if stage == "train":
        assert (found[0], *found[2:]) == (expected[0], *expected[2:])
    else:
        assert found == expected


def test_what_a_killed_command_left_behind_changes_nothing(place: Place) -> None:
    for leftover in (
        ".write-test-0a1b2c3d",
        "checkpoints/000000030-0000000001-20260101T000000-aaaa/rank-0-of-2.safetensors",
    ):
        place.store.write(f"runs/small/{leftover}", b"")
    place.start()
    assert place.train()[2] == 20


@pytest.mark.parametrize("fault", ["empty", "noise", "cut", "huge"])
@pytest.mark.parametrize("kind", ["shards/*.tar", "indexes/*.parquet"])
def test_a_damaged_shard_or_index_is_told_by_fit(place: Place, kind: str, fault: str) -> None:
    shutil.rmtree(place.folder / "storage/runs/small/latents")
    for path in place.folder.glob(f"storage/datasets/small/{kind}"):
        damage(path, fault)
    shutil.rmtree(place.folder / "cache", ignore_errors=True)
    with pytest.raises(MedfunctaError) as caught:
        place.fit()
    assert caught.value.exit_code == 4
    assert caught.value.where
    assert caught.value.do


@pytest.mark.parametrize("fault", ["empty", "noise", "cut"])
def test_a_damaged_copy_in_the_cache_is_fetched_again(place: Place, fault: str) -> None:
    counts, *_ = place.fit()
    shutil.rmtree(place.folder / "storage/runs/small/latents")
    for path in (place.folder / "cache").glob("*.tar"):
        damage(path, fault)
    again, _, fitted = place.fit()
    assert again == counts
    assert fitted == counts.fitted


def test_foreign_things_in_the_cache_are_left_or_told(place: Place) -> None:
    place.fit()
    shutil.rmtree(place.folder / "storage/runs/small/latents")
    cache = place.folder / "cache"
    [shard, *_] = sorted(cache.glob("*.tar"))
    shard.unlink()
    shard.mkdir()
    (cache / "folder.tar").mkdir()
    (cache / "other.part").write_bytes(b"")
    (cache / "noise.lock").write_bytes(b"not a lock")
    with pytest.raises(MedfunctaError) as caught:
        place.fit()
    assert str(shard) in str(caught.value)
    assert caught.value.do
