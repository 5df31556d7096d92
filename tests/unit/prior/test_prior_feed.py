"""What a step of the prior's training reads: the same global batch at any number of ranks, each latent once."""

from __future__ import annotations

import itertools

import torch

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.prior.denoiser import DenoiserSpec
from medfuncta_dist.prior.prior_feed import UNTOLD, ClassedLatents, PriorFeed
from medfuncta_dist.prior.prior_latents import Classes
from medfuncta_dist.prior.prior_subject import PriorSubject
from medfuncta_dist.streaming.device_transfer import Placed
from medfuncta_dist.training.world import World

SCANS, BATCH, NONE = 23, 5, 2


def placed_run() -> RunFile:
    run = parse("{name: r, storage: x, data: {source: x, shape: [8]}, prior: {steps: 12, seed: 3}}")
    subject = PriorSubject(run, "ab" * 32, DenoiserSpec(2, 2, 4, 1), Classes((0, 1), (12, 11), 0), BATCH, "")
    return subject.placed(run)


def feed(rank: int = 0, size: int = 1) -> PriorFeed:
    """Latents that tell their number and their class."""
    numbers = torch.arange(SCANS, dtype=torch.float32)
    latents = ClassedLatents(torch.stack([numbers, -numbers], 1), torch.arange(SCANS) % 2)
    return PriorFeed(placed_run(), "d", latents, latents, NONE, World(rank, size, torch.device("cpu")))


def steps(of: PriorFeed, first: int, count: int) -> list[Placed]:
    with of.batches(first) as batches:
        return list(itertools.islice(batches, count))


def test_ranks_divide_the_batches_of_one() -> None:
    alone, parts = steps(feed(), 3, 4), [steps(feed(rank, 3), 3, 4) for rank in range(3)]
    for number, whole in enumerate(alone):
        assert whole.batch.step == 3 + number
        assert len(whole.targets) == BATCH
        shares = [part[number] for part in parts]
        assert torch.equal(torch.cat([share.targets for share in shares]), whole.targets)
        for kind in range(3):
            assert torch.equal(torch.cat([share.contexts[kind] for share in shares]), whole.contexts[kind])


def test_an_epoch_has_each_latent_at_most_once_and_another_has_another_order() -> None:
    per_epoch = SCANS // BATCH
    epochs = [steps(feed(), epoch * per_epoch, per_epoch) for epoch in range(2)]
    orders = [torch.cat([placed.targets[:, 0] for placed in epoch]).tolist() for epoch in epochs]
    assert all(len(set(order)) == per_epoch * BATCH for order in orders)
    assert orders[0] != orders[1]
    assert feed().epoch_and_batch(per_epoch + 1) == (1, 1)


def test_a_step_keeps_latent_and_class_together_and_leaves_some_classes_untold() -> None:
    told = [
        (int(latent), int(label))
        for placed in steps(feed(), 0, 12)
        for latent, label in zip(placed.targets[:, 0], placed.contexts[0], strict=True)
    ]
    assert all(label in (latent % 2, NONE) for latent, label in told)
    untold = sum(label == NONE for _, label in told) / len(told)
    assert 0 < untold < 4 * UNTOLD
    noise = [placed.contexts[2] for placed in steps(feed(), 0, 2)]
    assert not torch.equal(noise[0], noise[1])


def test_held_out_latents_are_measured_at_the_same_noise_each_time_whatever_the_ranks() -> None:
    whole, again = feed().validation(), feed().validation()
    assert torch.equal(whole[1][2], again[1][2])
    part = feed(1, 2).validation()
    assert torch.equal(part[0], whole[0][1::2])
    assert torch.equal(part[1][2], whole[1][2][1::2])


def test_the_prior_trains_by_its_own_section_below_its_own_folder() -> None:
    run = placed_run()
    assert run.name == "r/prior/" + "ab" * 8
    assert (run.train.batch, run.train.steps, run.train.seed, run.train.optimizer) == (BATCH, 12, 3, "adamw")
    assert run.telemetry.wandb == "off"
