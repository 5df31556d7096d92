"""Training state in storage: parameters and their moments as safetensors, made valid by a commit record.

    runs/<name>/checkpoints/<step>-<attempt>/rank-<r>-of-<W>.safetensors    a rank's share: "<part>/<parameter>"
    runs/<name>/checkpoints/commits/<step>-<attempt>.json                   the commit record, written last

Whole parameters, not partitions: a checkpoint is read at any world size and any ZeRO stage that its optimiser has.
Attempts never share a name, so a writer that was taken for dead cannot damage what its successor wrote; its
generation is lower, too, and readers prefer the highest (generation, step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TypeVar

import safetensors.torch
from torch import Tensor

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.fields import safe_tensors
from medfuncta_dist.storage.commit_record import LARGEST_RECORD, parse_record
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.typed_record import typed
from medfuncta_dist.storage.publish import Guard, NewRecord, publish
from medfuncta_dist.training.attempt import Attempt, generations
from medfuncta_dist.training.checkpoints.training_state import State, from_tensors, to_tensors

FORMAT_VERSION = 1
KIND = "checkpoint"
PARALLEL_READS = 4
STEP_DIGITS = 9
_REPAIR = "run `verify --repair`: it removes damaged checkpoints, and training resumes at the newest whole one"

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What a checkpoint belongs to. Epoch and batch follow from the step; they are recorded for people."""

    step: int
    epoch: int
    batch: int
    dataset_digest: str
    run_digest: str
    field_digest: str
    zero_stage: int
    world_size: int
    code_version: str
    written: float = 0.0
    """When, in seconds since 1970; 0 where it was not recorded."""
    device: str = ""
    """The model of its GPUs, several in the order of the alphabet with commas, or ``cpu``; empty where it was not
    recorded."""


@dataclass(frozen=True)
class ShareFile:
    """A rank's file: its path below the storage root, bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class _Files:
    """A part of a record's body."""

    files: list[ShareFile]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its record's path, its facts, the whole state."""

    record: str
    facts: Facts
    state: State


class Checkpoints:
    """The checkpoints of one run, as one attempt writes them; ``fence`` is passed before each commit."""

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        attempt: Attempt,
        keep: int,
        keep_s: float = math.inf,
        *,
        fence: Guard,
    ) -> None:
        self._store, self._attempt, self._keep, self._keep_s, self._fence = store, attempt, keep, keep_s, fence
        self._folder = f"runs/{run}/checkpoints"
        self._damaged: set[str] = set()

    def write_share(self, step: int, rank: int, world_size: int, share: State) -> ShareFile:
        """Write one rank's part of the state. The checkpoint is not valid until `commit` names every rank's file."""
        data = safetensors.torch.save(to_tensors(share), {"format_version": str(FORMAT_VERSION), "kind": KIND})
        path = f"{self._folder}/{_padded(step)}-{self._attempt.name}/rank-{rank}-of-{world_size}.safetensors"
        self._store.write(path, data)
        if self._store.size(path) != len(data):
            do = "check whether the storage changes new files; training continues and will write further checkpoints"
            raise IntegrityError("a checkpoint file was not stored whole", where=self._store.uri(path), do=do)
        return ShareFile(path, len(data), sha256_bytes(data))

    def commit(self, facts: Facts, files: Sequence[ShareFile]) -> None:
        """Make the checkpoint valid. LeaseLostError where another driver has taken the run over."""
        path = f"{self._folder}/commits/{_padded(facts.step)}-{self._attempt.name}.json"
        known = {name: value for name, value in asdict(facts).items() if name != "device" or value}
        body = {**known, "files": [asdict(file) for file in files]}
        publish(self._store, self._fence, NewRecord(path, KIND, body, self._attempt.generation))

    def restore_latest(self, shapes: Mapping[str, tuple[int, ...]], notify: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there is none at all.

        Damaged ones are passed over, each with a line to ``notify``. IntegrityError when all are damaged: starting from
        nothing would silently throw the run away. FormatVersionError for a checkpoint of a newer version.
        """
        paths = newest_first(self._store, self._folder)
        for path in paths:
            try:
                return self.load(path, shapes)
            except FormatVersionError:
                raise
            except (IntegrityError, ObjectMissingError) as error:
                self._damaged.add(path)
                notify(f"checkpoint {checkpoint_name(path)} is damaged ({error.what}); trying the checkpoint before it")
        if paths:
            raise IntegrityError(
                f"none of the {len(paths)} checkpoints is whole",
                where=self._store.uri(self._folder),
                do="restore the folder from a backup, or delete it to train from the beginning",
            )
        return None

    def load(self, path: str, shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint:
        """Read and verify one checkpoint by its record's path."""
        facts, tensors = read_checkpoint(self._store, path)
        return Checkpoint(path, facts, from_tensors(tensors, shapes, self._store.uri(path)))

    def retain(self, step: int) -> None:
        """Having committed ``step``, keep the newest ``keep`` that are young enough and not known to be damaged.

        The newest stays whatever its age. Records go before files: a record whose files are gone would look like
        damage. LeaseLostError, and nothing is deleted, where another driver has taken the run over: it may read them.
        """
        self._fence.require(self._store)
        paths = newest_first(self._store, self._folder)
        good = [path for path in paths if path not in self._damaged][: self._keep]
        kept = [path for rank, path in enumerate(good) if rank == 0 or self._is_young(path)]
        for path in set(paths) - set(kept):
            self._store.delete(path)
        self._damaged.clear()
        for info in self._store.list(self._folder):
            folder = info.path.removeprefix(f"{self._folder}/").split("/")[0]
            if (
                folder != "commits"
                and self._is_no_longer_written(folder, step)
                and folder not in map(checkpoint_name, kept)
            ):
                self._store.delete(info.path)

    def _is_young(self, path: str) -> bool:
        if math.isinf(self._keep_s):
            return True
        facts, _ = _read_record(self._store, path)
        return not facts.written or time.time() - facts.written <= self._keep_s

    def _is_no_longer_written(self, folder: str, step: int) -> bool:
        """Whether nothing is written here any more: by no earlier attempt, nor by this one up to its newest commit."""
        found = generations([folder])
        return bool(found) and (found[0], folder[:STEP_DIGITS]) <= (self._attempt.generation, _padded(step))


def verify_checkpoints(store: ObjectStore, run: str) -> tuple[int, list[tuple[str, str]]]:
    """Read every checkpoint of a run; the number of whole ones, and (where, what) of each damaged one."""
    whole, damaged = 0, []
    for path in newest_first(store, f"runs/{run}/checkpoints"):
        try:
            read_checkpoint(store, path)
            whole += 1
        except (IntegrityError, ObjectMissingError) as error:
            damaged.append((store.uri(path), error.what))
    return whole, damaged


def newest_first(store: ObjectStore, folder: str) -> list[str]:
    """Record paths by (generation, step), from their names alone: damaged records are sorted, too."""
    paths = [info.path for info in store.list(f"{folder}/commits") if info.path.endswith(".json")]
    return sorted((path for path in paths if generations([checkpoint_name(path)])), key=_age_key, reverse=True)


def read_checkpoint(store: ObjectStore, path: str) -> tuple[Facts, dict[str, Tensor]]:
    """A checkpoint's facts and verified tensors, by its record's path; IntegrityError, ObjectMissingError."""
    facts, files = _read_with_retry(lambda: _read_record(store, path))
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        shares = list(pool.map(lambda file: _read_with_retry(lambda: _read_share(store, file)), files))
    return facts, {name: tensor for share in shares for name, tensor in share.items()}


def _read_with_retry(read: Callable[[], T]) -> T:
    """What ``read`` returns; read once more where it is damaged: it may have been damaged in transit only."""
    try:
        return read()
    except FormatVersionError:
        raise
    except IntegrityError:
        return read()


def _read_record(store: ObjectStore, path: str) -> tuple[Facts, list[ShareFile]]:
    return _parse(store.read(path, limit=LARGEST_RECORD), store.uri(path))


def _read_share(store: ObjectStore, file: ShareFile) -> dict[str, Tensor]:
    where = store.uri(file.path)
    data = store.read(file.path, limit=file.size)
    if len(data) != file.size or sha256_bytes(data) != file.sha256:
        raise IntegrityError("a checkpoint file does not match its record", where=where, do=_REPAIR)
    try:
        metadata, tensors = safe_tensors.load(data)
    except ValueError as error:
        raise IntegrityError("a checkpoint file is not safetensors", where=where, do=_REPAIR) from error
    _check_version(metadata.get("format_version"), where)
    return tensors


def _parse(data: bytes, where: str) -> tuple[Facts, list[ShareFile]]:
    body = dict(parse_record(data, KIND, where).body)
    files = typed(_Files, {"files": body.pop("files", None)}, "a checkpoint record", where).files
    return typed(Facts, body, "a checkpoint record", where), files


def _check_version(version: str | None, where: str) -> None:
    if version != str(FORMAT_VERSION):
        raise FormatVersionError(
            f"checkpoint format_version {version!r} is unknown; this version reads {FORMAT_VERSION}",
            where=where,
            do="use the version of medfuncta-dist that wrote it, or a newer one",
        )


def _padded(step: int) -> str:
    return f"{step:0{STEP_DIGITS}d}"


def checkpoint_name(path: str) -> str:
    """``<step>-<attempt>``, from a record's path."""
    return path.rsplit("/", 1)[-1].removesuffix(".json")


def step_of(path: str) -> int:
    """The step, from a record's path."""
    return int(checkpoint_name(path)[:STEP_DIGITS])


def _age_key(path: str) -> tuple[int, str]:
    return generations([checkpoint_name(path)])[0], checkpoint_name(path)
