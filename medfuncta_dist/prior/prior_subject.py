"""The prior as a subject of training: latents of the table in; its result is the last checkpoint, which the driver
turns into the run's prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunChangedError
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.safe_tensors import load
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.prior.denoiser import DenoiserSpec, init_params
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from medfuncta_dist.prior.prior_files import LARGEST_WEIGHTS, TRAIN_AGAIN, prior_folder
from medfuncta_dist.prior.prior_latents import TRAIN, Classes, find_source, read_splits
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.training.world import World

if TYPE_CHECKING:
    from medfuncta_dist.prior.prior_feed import PriorFeed
    from medfuncta_dist.training.checkpoints.checkpoint_saver import CheckpointSaver
    from medfuncta_dist.training.rank_setup import RankContext, RestoredNetwork
    from medfuncta_dist.training.train_worker import TrainLoop

WARM_UP, VALIDATIONS = 0.05, 20
"""Share of the steps in which the rate rises from 0; measurements on held-out latents."""
COORDINATES_FILE = "coordinates.safetensors"


@dataclass(frozen=True)
class PriorSubject:
    """A run's prior. All that it is trained with is in storage before training begins."""

    run: RunFile
    identity: str
    spec: DenoiserSpec
    classes: Classes
    batch: int
    coordinates_digest: str

    @property
    def folder(self) -> str:
        """Where its coordinates, checkpoints and events are."""
        return f"{prior_folder(self.run.name)}/{self.identity[:16]}"

    def placed(self, run: RunFile) -> RunFile:
        """The run with the prior's training in place of the network's, kept below the prior's folder."""
        wanted, steps = run.prior, run.prior.steps
        train = run.train.model_copy(
            update={
                "batch": self.batch,
                "steps": steps,
                "rate": wanted.rate,
                "seed": wanted.seed,
                "optimizer": "adamw",
                "rate_by_omega": False,
                "schedule": "cosine",
                "schedule_steps": None,
                "warmup_steps": round(WARM_UP * steps),
                "validate_steps": max(1, steps // VALIDATIONS),
                "weight_decay": 0.0,
                "clip": 1.0,
                "start_from": None,
                "augment": None,
            }
        )
        telemetry = run.telemetry.model_copy(update={"wandb": "off", "images": False})
        name = self.folder.removeprefix("runs/")
        return run.model_copy(update={"name": name, "train": train, "telemetry": telemetry})

    def feed(self, run: RunFile, store: ObjectStore, world: World) -> PriorFeed:
        """Training and held-out latents, whole on each rank. RunChangedError where the table has changed meanwhile."""
        from medfuncta_dist.prior.prior_feed import ClassedLatents, PriorFeed

        source, coordinates = find_source(self.run, store), read_coordinates(store, self.folder)
        if coordinates[1] != self.coordinates_digest:
            raise RunChangedError("the prior's coordinates have changed since training began", where=self.folder)
        found = [read_splits(store, source, splits) for splits in ([TRAIN], source.held_out)]
        train, held_out = (ClassedLatents.of(one, coordinates[0], self.classes) for one in found)
        return PriorFeed(run, source.digest, train, held_out, self.classes.none, world)

    def learner(self, run: RunFile, feed: Any) -> Learner:
        """A denoiser that knows nothing yet."""
        from medfuncta_dist.prior.prior_learner import PriorLearner

        return PriorLearner(self.spec, init_params(self.spec, torch.Generator().manual_seed(run.train.seed)))

    def start(self, run: RunFile, store: ObjectStore, learner: Learner) -> Params | None:
        """Nothing: it begins anew."""
        return None

    def loop(self, rank: RankContext, restored: RestoredNetwork, saver: CheckpointSaver) -> TrainLoop:
        """With the loss on held-out latents."""
        from medfuncta_dist.prior.prior_loop import PriorLoop

        return PriorLoop(rank, restored, saver)


def read_coordinates(store: ObjectStore, folder: str) -> tuple[MetricCoordinates, str]:
    """The coordinates in a prior's folder, and their file's digest. ObjectMissingError before there are any;
    IntegrityError where they are damaged."""
    path = f"{folder}/{COORDINATES_FILE}"
    data = store.read(path, limit=LARGEST_WEIGHTS)
    try:
        return MetricCoordinates.from_tensors(load(data)[1]), sha256_bytes(data)
    except ValueError as error:
        raise IntegrityError(f"no coordinates of a prior: {error}", where=store.uri(path), do=TRAIN_AGAIN) from error
