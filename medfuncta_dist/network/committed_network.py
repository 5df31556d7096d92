"""A run's finished network in storage: writing and reading its commit record and its two files.

runs/<name>/network/<network digest>/{network.safetensors,network.json}, then runs/<name>/network/commit.json (kind
"network"). Files lie under the network's digest, so two drivers never write different bytes to one file; the record is
written last, only by the driver that holds the lease, and decides which network is the run's.
{"digest": <network digest>, "files": {<file>: {"path", "size", "sha256"}}, "step", "loss", "psnr",
 "dataset_digest" (empty for an imported network), "run_digest", "started_from" (where there is one)}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, ObjectMissingError, StageOrderError
from medfuncta_dist.fields.network_record import RECORD_FILE, files_below, network_folder
from medfuncta_dist.fields.shared_network import DESCRIPTION_FILE, WEIGHTS_FILE, SharedNetwork
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.network.core_settings import inner_of
from medfuncta_dist.network.start_record import started_from
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.storage.commit_record import read_as, read_record
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE
from medfuncta_dist.storage.publish import Guard, NewRecord, publish
from medfuncta_dist.version import __version__

KIND = "network"
TRAINING_SPLIT = "train"
IMPORTED = ""
"""The ``dataset_digest`` of a network that was imported: what it was trained on is not known here."""


@dataclass(frozen=True)
class NetworkRef:
    """Where the two files of a committed network are, and the digest that it must have."""

    weights: str
    description: str
    digest: str

    @property
    def folder(self) -> str:
        """The folder of its description, which the digest is computed from."""
        return self.description.rpartition("/")[0]

    def where(self, store: ObjectStore) -> str:
        """The URI of that folder; the store's root, for files that lie there."""
        return store.uri(self.folder) if self.folder else store.root


@dataclass(frozen=True)
class Committed:
    """The commit record of a finished network; ``loss`` and ``psnr`` (dB) are the last measured."""

    digest: str
    files: dict[str, dict[str, Any]]
    step: int
    loss: float | None
    psnr: float | None
    dataset_digest: str
    run_digest: str
    started_from: str | None = None
    """Digest of the network that training began with; None where it was drawn, and not written then."""

    @property
    def imported(self) -> bool:
        """Whether it was trained elsewhere: it has no outer steps of this run, and needs none."""
        return self.dataset_digest == IMPORTED


def committed_network(store: ObjectStore, run: str) -> Committed | None:
    """The commit record of a run's network; None until training has finished. IntegrityError if it is damaged."""
    try:
        done = read_as(Committed, store, record_path(run), KIND)
    except ObjectMissingError:
        return None
    _ref(asdict(done), run, store.uri(record_path(run)))  # a path that leads elsewhere is damage, too
    return done


def published_network(store: ObjectStore, run: str) -> NetworkRef:
    """Where the run's finished network is. StageOrderError until training has finished."""
    try:
        body = read_record(store, record_path(run), KIND)
    except ObjectMissingError as error:
        where = store.uri(network_folder(run))
        what = "the shared network is not trained yet"
        raise StageOrderError(what, where=where, do="run the train stage first") from error
    return _ref(body, run, store.uri(record_path(run)))


def require_all_steps(run: RunFile, store: ObjectStore) -> None:
    """StageOrderError where the run has got more steps since its network was trained, or has no network."""
    ref = published_network(store, run.name)
    body = read_record(store, record_path(run.name), KIND)
    step = body.get("step")
    if isinstance(step, int) and step < run.train.steps and body.get("dataset_digest") != IMPORTED:
        what = f"the shared network was trained for {step} of {run.train.steps} outer steps (train.steps)"
        raise StageOrderError(what, where=ref.where(store), do="run the train stage first")


def record_path(run: str) -> str:
    """Path of the commit record of a run's network, relative to the storage root."""
    return f"{network_folder(run)}/{RECORD_FILE}"


def _ref(body: Mapping[str, Any], run: str, where: str) -> NetworkRef:
    """The network that a record's body names. IntegrityError, naming ``where``, unless it is in the run's folder."""
    digest = body.get("digest")
    if not isinstance(digest, str):
        raise IntegrityError("the network's commit record names no digest", where=where, do=RESTORE)
    paths = files_below(body, (WEIGHTS_FILE, DESCRIPTION_FILE), where)
    weights, description = (f"{network_folder(run)}/{path}" for path in paths)
    return NetworkRef(weights, description, digest)


def commit_network(
    store: ObjectStore,
    run: RunFile,
    snapshot: Snapshot,
    trained: Trained,
    loss: float | None,
    psnr: float | None,
    fence: Guard,
) -> Committed:
    """Write the network's two files, then the record that makes them the run's network.

    LeaseLostError, and no record is written, where another driver has taken the run over.
    """
    weights, extras = (
        {name: tensor.detach().to("cpu", torch.float32) for name, tensor in tensors.items()}
        for tensors in (trained.params, trained.extras)
    )
    inner = inner_of(run) | _facts(trained, snapshot)
    network = SharedNetwork(trained.spec, weights, dict(snapshot.contract), inner, snapshot.digest, __version__, extras)
    files = store_network(store, network_folder(run.name), network)
    start = started_from(store, run.name) if run.train.start_from else None
    done = Committed(network.digest, files, run.train.steps, loss, psnr, snapshot.digest, run.digest(), start)
    body = {name: value for name, value in asdict(done).items() if name != "started_from" or value}
    publish(store, fence, NewRecord(record_path(run.name), KIND, body))
    return done


def _facts(trained: Trained, snapshot: Snapshot) -> dict[str, Any]:
    """What the network tells of its latents. Augmented copies of a scan count as one scan."""
    facts, different = trained.facts, sum(shard.samples for shard in snapshot.splits.get(TRAINING_SPLIT, ()))
    return facts | {"scans": min(facts["scans"], different)} if "scans" in facts else facts


def store_network(store: ObjectStore, folder: str, network: SharedNetwork) -> dict[str, dict[str, Any]]:
    """Write a network's two files under its digest, below the folder: if they are there, their bytes are the same.

    Returns what the commit record lists as ``files``. IntegrityError if storage did not keep a file whole.
    """
    files = {}
    for name, data in network.to_files().items():
        path = f"{folder}/{network.digest}/{name}"
        store.write(path, data)
        if (found := store.size(path)) != len(data):
            do = "check whether the storage changes new files, then run train again: it resumes at its last checkpoint"
            raise IntegrityError(f"{len(data)} bytes were written, {found} arrived", where=store.uri(path), do=do)
        files[name] = {"path": path, "size": len(data), "sha256": sha256_bytes(data)}
    return files
