"""The run's shared network, found through its commit record and kept once a process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from medfuncta_dist.errors import IntegrityError, MedfunctaError, ObjectMissingError, StageOrderError
from medfuncta_dist.fields.network_record import RECORD_FILE, files_below, network_folder
from medfuncta_dist.fields.shared_network import DESCRIPTION_FILE, LARGEST_DESCRIPTION, WEIGHTS_FILE, SharedNetwork
from medfuncta_dist.meta.device import require_device
from medfuncta_dist.storage.commit_record import read_record
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE

LARGEST_WEIGHTS = 2**32  # bytes: a billion numbers, fifty times the published networks
KEPT = 2  # networks a process: a worker that is reused by the next run should not collect all it ever saw


@dataclass(frozen=True)
class NetworkRef:
    """Where a committed network's two files lie, and the digest that it must have."""

    weights: str
    description: str
    digest: str

    @property
    def folder(self) -> str:
        """Of its description, which is what the digest is of."""
        return self.description.rpartition("/")[0]


def published_network(store: ObjectStore, run_name: str) -> NetworkRef:
    """The network that training committed. StageOrderError while there is none."""
    folder = network_folder(run_name)
    where = store.uri(f"{folder}/{RECORD_FILE}")
    try:
        body = read_record(store, f"{folder}/{RECORD_FILE}", "network")
    except ObjectMissingError as error:
        raise StageOrderError(
            "the shared network is not trained yet", where=store.uri(folder), do="run the train stage first"
        ) from error
    digest = body.get("digest")
    if not isinstance(digest, str):
        raise IntegrityError("the network's commit record names no digest", where=where, do=RESTORE)
    weights, description = files_below(body, (WEIGHTS_FILE, DESCRIPTION_FILE), where, run_name)
    return NetworkRef(f"{folder}/{weights}", f"{folder}/{description}", digest)


def load_network(store: ObjectStore, ref: NetworkRef) -> SharedNetwork:
    """Read the network, on the CPU. IntegrityError when it is not the committed one."""
    limits = {ref.weights: LARGEST_WEIGHTS, ref.description: LARGEST_DESCRIPTION}
    files = [store.read(path, limit=limit) for path, limit in limits.items()]
    try:
        network = SharedNetwork.from_files(*files)
    except MedfunctaError as error:
        raise type(error)(error.what, where=store.uri(ref.folder), do=error.do) from error
    if network.digest != ref.digest:
        raise IntegrityError(
            "the shared network is not the one that its commit record names",
            where=store.uri(ref.folder),
            do="restore the network's files from a backup, or run train again under another name",
        )
    return network


@lru_cache(maxsize=KEPT)
def network_here(root: str, ref: NetworkRef, device: torch.device) -> SharedNetwork:
    """The network on the device that the task was granted, read once. MedfunctaError where torch cannot use it."""
    require_device(device)
    network = load_network(ObjectStore(root), ref)
    for tensors in (network.params, network.extras):
        tensors.update({name: tensor.to(device) for name, tensor in tensors.items()})
    return network
