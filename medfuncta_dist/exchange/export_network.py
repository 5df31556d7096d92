"""The command ``export-network``: a shared network as a state dict that the public code loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.exchange.public_network import Schedule, schedule_of, to_public
from medfuncta_dist.exchange.torch_file import RefusedFileError
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.network.committed_network import published_network
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.storage.local_objects import replacing
from medfuncta_dist.storage.object_store import ObjectStore


def export_network(network: SharedNetwork, out: Path, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """Write a network for the public code; the figures of the command.

    Args:
        shape: points per axis of its coordinate grid, which the public code keeps in the file. None: those of the data
            that it was trained on.

    Raises:
        RunFileError: the public code cannot express it, no shape is known, or the shape has another number of axes.
    """
    spec, points = network.spec, shape or _trained_shape(network)
    schedule = _schedule(network)
    assert isinstance(spec, SirenSpec)
    if not points or len(points) != spec.coords:
        what = f"its coordinate grid needs a shape of {spec.coords} axes, and {list(points or [])} is none"
        raise RunFileError(what, where="--shape", do="give --shape, for example --shape 64x64")
    state = to_public(spec, network.params, points)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as part, part.open("wb") as file:  # torch itself takes no path of that form
        torch.save(state, file)
    config = _config(spec, schedule)
    lines = [
        f"export-network: {out}; its configuration in the public code:",
        *(f"  '{k}': {v}," for k, v in config.items()),
    ]
    return {"network": network.digest, "file": str(out), "config": config, "said": [*lines, *_remarks(network)]}


def network_of_run(run: RunFile) -> SharedNetwork:
    """The trained network of a run. StageOrderError before there is one."""
    store = ObjectStore(run.storage)
    return load_network(store, published_network(store, run.name))


def _schedule(network: SharedNetwork) -> Schedule:
    try:
        return schedule_of(network.spec)
    except RefusedFileError as error:
        do = "export the network of a run with field.kind siren, and omega_first and omega_last"
        raise RunFileError(f"this network cannot be exported: {error.what}", do=do) from error


def _config(spec: SirenSpec, schedule: Schedule) -> dict[str, Any]:
    """As in the public code's configuration files, by its names."""
    return {
        "in_size": spec.coords,
        "out_size": spec.channels,
        "hidden_size": spec.hidden,
        "num_layers": spec.layers,
        "latent_modulation_dim": spec.latent,
        "w0": schedule.w0,
        "w0_increment": schedule.increment,
        "enable_skip_connections": schedule.residual,
    }


def _remarks(network: SharedNetwork) -> list[str]:
    found = []
    if not (isinstance(network.spec, SirenSpec) and network.spec.modulate_first):
        found.append("the first layer is not modulated: the file holds zeros there, and decodes the same")
    if network.extras:
        found.append("learned inner rates are not in the file: the public code fits with one rate (inner_lr)")
    return found


def _trained_shape(network: SharedNetwork) -> Sequence[int] | None:
    """Of the scans that it was trained on; None where it is not known, or where these keep their own."""
    shape = network.contract.get("shape")
    return shape if isinstance(shape, list) else None
