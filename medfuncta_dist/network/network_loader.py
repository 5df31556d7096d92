"""Loading a run's committed network, verified, and keeping it in the memory of this process."""

from __future__ import annotations

from functools import lru_cache

import torch

from medfuncta_dist.errors import IntegrityError, MedfunctaError
from medfuncta_dist.fields.shared_network import LARGEST_DESCRIPTION, SharedNetwork
from medfuncta_dist.meta.device import require_device
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import read_promised

RESTORE_NETWORK = "restore the network's files from a backup, or run train again under another name"
LARGEST_WEIGHTS = 2**32  # bytes: a billion numbers, fifty times the published networks
KEPT = 2  # networks per process: a worker that serves one run after another must not keep all their networks


def load_network(store: ObjectStore, ref: NetworkRef) -> SharedNetwork:
    """Read the network, on the CPU. IntegrityError when it is not the committed one."""
    limits = {ref.weights: LARGEST_WEIGHTS, ref.description: LARGEST_DESCRIPTION}
    files = [
        read_promised(store, path, "a file of the network", RESTORE_NETWORK, limit=n) for path, n in limits.items()
    ]
    try:
        network = SharedNetwork.from_files(*files)
    except MedfunctaError as error:
        raise type(error)(error.what, where=ref.where(store), do=error.do) from error
    if network.digest != ref.digest:
        raise IntegrityError(
            "the shared network is not the one that its commit record names",
            where=ref.where(store),
            do=RESTORE_NETWORK,
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
