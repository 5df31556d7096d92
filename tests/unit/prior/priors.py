"""A small prior of a run's latents, without training: its parameters are drawn."""

from __future__ import annotations

from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.latents.image_curvature import image_curvature
from medfuncta_dist.network.committed_network import published_network
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.prior.denoiser import DenoiserSpec, init_params
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from medfuncta_dist.prior.prior_files import Prior, PriorRecord, commit_prior
from medfuncta_dist.prior.prior_latents import TRAIN, Classes, find_source, read_splits
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE

JUDGEMENT: dict[str, Any] = {
    "samples": 64,
    "held_out": 110,
    "held_out_copies": 10,
    "copied": 0.01,
    "by_chance": 0.01,
}


def random_prior(run: RunFile, **judgement: Any) -> tuple[Prior, tuple[str, ...]]:
    """Of a run with latents; and the parts that it would have been trained on."""
    store = ObjectStore(run.storage)
    source = find_source(run, store)
    train = read_splits(store, source, [TRAIN])
    network = load_network(store, published_network(store, run.name))
    coordinates = MetricCoordinates.of(
        train.latents, image_curvature(network, train.latents.numpy(), run.data.shape), 6
    )
    classes = Classes.of(train.labels)
    spec = DenoiserSpec(len(coordinates.deviations), len(classes.labels), width=8, blocks=1)
    generator = torch.Generator().manual_seed(1)
    params = {
        name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in init_params(spec, generator).items()
    }
    prior = Prior(
        spec,
        params,
        coordinates,
        classes,
        train.appearance,
        "1d" * 32,
        {"steps": 1},
        source.network_digest,
        source.digest,
        JUDGEMENT | judgement,
    )
    return prior, source.parts


def committed(run: RunFile, **judgement: Any) -> tuple[Prior, PriorRecord]:
    """The same, as the run's."""
    prior, parts = random_prior(run, **judgement)
    return prior, commit_prior(ObjectStore(run.storage), run.name, prior, parts, ALONE)
