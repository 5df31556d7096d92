"""Training a run's prior, as its driver: coordinates, the training loop, judgement, and the files at the end.

Every step that is done is found again: the coordinates and checkpoints lie below a folder that is named by all that the
prior is trained with, so another setting or another table begins another prior.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import ObjectMissingError, RunFileError
from medfuncta_dist.fields.params import Params
from medfuncta_dist.neighbours.image_curvature import image_curvature
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.prior.denoiser import DenoiserSpec
from medfuncta_dist.prior.drawing import draw
from medfuncta_dist.prior.judgement import judge, judged_samples
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from medfuncta_dist.prior.noise_schedule import require_library
from medfuncta_dist.prior.prior_feed import ClassedLatents
from medfuncta_dist.prior.prior_files import (
    FORMAT_VERSION,
    Prior,
    commit_prior,
    committed_prior,
    load_prior,
    prior_folder,
)
from medfuncta_dist.prior.prior_latents import TRAIN, Classes, LatentSource, SplitLatents, find_source, read_splits
from medfuncta_dist.prior.prior_subject import COORDINATES_FILE, PriorSubject, read_coordinates
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard, publish_bytes
from medfuncta_dist.telemetry.event_log import history
from medfuncta_dist.telemetry.progress_report import OnProgress, ignore_progress
from medfuncta_dist.training.checkpoints.checkpoint import newest_first, read_checkpoint, step_of
from medfuncta_dist.training.train_driver import LimitReached, TrainDriver, without_limit
from medfuncta_dist.training.trainer import follow, log_line, stopped_early

STAGE = "prior"


@dataclass(frozen=True)
class PriorSummary:
    """A run's prior. ``first_step`` is where this command began: 0, or a checkpoint's step, or all of them."""

    digest: str
    steps: int
    first_step: int
    attempts: int
    numbers: int
    classes: tuple[int, ...]
    held_out_loss: float | None
    """The last one; 1 is that of a prior that has learned nothing but means and variances."""
    judgement: dict[str, Any]
    seconds: float


def identity_of(run: RunFile, source: LatentSource) -> str:
    """Digest of all that a prior is trained with and judged by."""
    settings = run.prior.part(lambda key: key.decides_results)
    return digest_json([FORMAT_VERSION, settings, source.digest, source.network_digest, list(source.held_out_parts)])


def train_prior(
    run: RunFile,
    *,
    on_progress: OnProgress = ignore_progress,
    notify: Callable[[str], None] = log_line,
    limit_reached: LimitReached = without_limit,
    fence: Guard = ALONE,
) -> PriorSummary:
    """Train the prior of a run's latents, from the last checkpoint if there is one, judge it, and commit it.

    Returns at once where the run's prior is the one that its settings and its latents give. Errors are those of
    ``training.trainer.train``, and RunFileError where there is nothing to train on or to judge by.
    """
    began, store = time.monotonic(), ObjectStore(run.storage)
    require_library()
    source = find_source(run, store)
    done, identity = committed_prior(store, run.name), identity_of(run, source)
    driver = TrainDriver(run, ignore_progress, notify, None, limit_reached)
    if done is None or done.identity != identity:
        driver.require_within_limit()
        notify(f"prior: reading the latents of {len(source.parts)} parts")
        train, held_out = (read_splits(store, source, splits) for splits in ([TRAIN], source.held_out))
        subject = prepare(run, store, source, train, identity, notify, fence)
        placed = subject.placed(run)
        driver = TrainDriver(
            placed, lambda report: on_progress(replace(report, stage=STAGE)), notify, None, limit_reached
        )
        params = _trained(run, store, subject, driver, fence)
        prior = _judged(run, store, source, subject, params, train, held_out, notify)
        done = commit_prior(store, run.name, prior, source.parts, fence)
    prior = load_prior(store, run.name, done)
    losses = history(store, f"{run.name}/prior/{identity[:16]}", "held_out_loss", notify)
    steps = prior.settings["steps"]
    return PriorSummary(
        digest=prior.digest,
        steps=steps,
        first_step=steps if driver.first_step is None else driver.first_step,
        attempts=driver.attempts,
        numbers=prior.spec.numbers,
        classes=prior.classes.labels,
        held_out_loss=losses[-1][1] if losses else None,
        judgement=prior.judgement,
        seconds=round(time.monotonic() - began, 3),
    )


def prepare(
    run: RunFile,
    store: ObjectStore,
    source: LatentSource,
    train: SplitLatents,
    identity: str,
    notify: Callable[[str], None],
    fence: Guard,
) -> PriorSubject:
    """What the workers train, with its coordinates in storage. RunFileError where a step has more workers than
    latents."""
    classes, batch = Classes.of(train.labels), min(run.prior.batch, len(train.latents))
    if run.cluster.most_workers > batch:
        raise RunFileError(
            f"cluster.workers is {run.cluster.most_workers}, but a step of the prior takes {batch} latents",
            where=f"prior.batch, and {len(train.latents)} training latents",
            do="lower cluster.workers, which may change at any time",
        )
    folder = f"{prior_folder(run.name)}/{identity[:16]}"
    try:
        coordinates, digest = read_coordinates(store, folder)
    except ObjectMissingError:
        notify("prior: computing the latents' coordinates in the network's metric")
        network = load_network(store, source.table.network)
        found = MetricCoordinates.of(
            train.latents, image_curvature(network, train.latents.numpy(), run.data.shape), run.prior.numbers
        )
        # Once, by the driver: another processor may turn directions of nearly equal variance another way.
        publish_bytes(store, fence, f"{folder}/{COORDINATES_FILE}", safetensors.torch.save(found.tensors()))
        coordinates, digest = read_coordinates(store, folder)
    spec = DenoiserSpec(len(coordinates.deviations), len(classes.labels), run.prior.width, run.prior.blocks)
    return PriorSubject(run, identity, spec, classes, batch, digest)


def _trained(run: RunFile, store: ObjectStore, subject: PriorSubject, driver: TrainDriver, fence: Guard) -> Params:
    """The parameters after the last step. InterruptedRunError where training stopped before."""
    checkpoints = f"{subject.folder}/checkpoints"
    if _last_step(store, checkpoints) < run.prior.steps:
        follow(run, subject, driver, fence)
    if _last_step(store, checkpoints) < run.prior.steps:
        raise stopped_early(driver)
    _, tensors = read_checkpoint(store, newest_first(store, checkpoints)[0])
    return {name: tensors[f"param/{name}"] for name in subject.spec.shapes()}


def _last_step(store: ObjectStore, checkpoints: str) -> int:
    found = newest_first(store, checkpoints)
    return step_of(found[0]) if found else 0


def _judged(
    run: RunFile,
    store: ObjectStore,
    source: LatentSource,
    subject: PriorSubject,
    params: Params,
    train: SplitLatents,
    held_out: SplitLatents,
    notify: Callable[[str], None],
) -> Prior:
    """The prior with what is to be said of it."""
    coordinates, classes = read_coordinates(store, subject.folder)[0], subject.classes
    settings = {**asdict_of(run), "trained_batch": subject.batch}
    prior = Prior(
        subject.spec,
        params,
        coordinates,
        classes,
        train.appearance,
        subject.identity,
        settings,
        source.network_digest,
        source.digest,
        {},
    )
    known, others = (ClassedLatents.of(one, coordinates, classes) for one in (train, held_out))
    count = judged_samples(known)
    notify(f"prior: drawing {count} samples to judge it by")
    drawn = draw(prior, count, seed=run.prior.seed)
    return replace(prior, judgement=judge(drawn, known, others, coordinates.deviations, classes.none))


def asdict_of(run: RunFile) -> dict[str, Any]:
    """The section ``prior``, as JSON has it."""
    return run.prior.model_dump(mode="json")
