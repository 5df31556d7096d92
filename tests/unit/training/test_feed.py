"""A rank's input: training scans are augmented where the run file says so, held-out scans never."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.augment import augmented
from medfuncta_dist.streaming.device_transfer import Placed, on_device
from medfuncta_dist.streaming.stream import Batch
from medfuncta_dist.task_map import map_here
from medfuncta_dist.training.feed import Feed
from medfuncta_dist.training.world import World
from tests.writers import write_medmnist

SHAPE = (8, 6)
AUGMENT = {"flip": [1], "affine": 0.1, "shift": 0.1, "gain": 0.1, "offset": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed")
    write_medmnist(folder / "images.npz", shape=SHAPE, counts={"train": 7, "val": 3})
    pack(run_file(folder), map_here, lambda _: None)
    return folder


def run_file(folder: Path, **train: Any) -> RunFile:
    whole = {
        "name": "fed",
        "storage": str(folder / "store"),
        "data": {"source": str(folder / "images.npz"), "shape": list(SHAPE), "private": str(folder / "private")},
        "train": {"batch": 3, "steps": 6, "seed": 5} | train,
        "cluster": {"cache": str(folder / "cache")},
    }
    return parse(yaml.safe_dump(whole))


def feed(run: RunFile, rank: int = 0, size: int = 1) -> Feed:
    store = ObjectStore(run.storage)
    return Feed(run, store, load_snapshot(store, run.dataset, None), World(rank, size, torch.device("cpu")))


def batches(run: RunFile, first: int = 0, rank: int = 0, size: int = 1) -> list[Batch]:
    with feed(run, rank, size).batches(first) as fed:
        return [placed.batch for placed in fed]


def test_training_scans_are_augmented_with_the_runs_seed(folder):
    run = run_file(folder, augment=AUGMENT)
    plain, fed = batches(run_file(folder)), batches(run)
    assert [batch.epoch for batch in fed] == [0, 0, 1, 1, 2, 2]
    assert run.train.augment is not None
    for before, batch in zip(plain, fed, strict=True):
        assert batch.keys == before.keys
        for key, values, after in zip(batch.keys, before.values, batch.values, strict=True):
            scan = values.T.reshape(1, *SHAPE)
            expected = augmented(scan, run.train.augment, seed=5, epoch=batch.epoch, key=key)
            np.testing.assert_array_equal(after, expected.reshape(1, -1).T)
            assert not np.array_equal(after, values)


def test_a_resumed_run_on_another_number_of_workers_sees_the_same_values(folder):
    run = run_file(folder, augment=AUGMENT)
    whole, parts = batches(run), [batches(run, 3, rank, 2) for rank in range(2)]
    for step, batch in enumerate(whole[3:]):
        assert np.concatenate([part[step].values for part in parts]).tobytes() == batch.values.tobytes()


def contexts_by_step(run: RunFile, first: int = 0) -> dict[int, list[list[int]]]:
    with feed(run).batches(first) as fed:
        return {placed.batch.step: [context.tolist() for context in placed.contexts] for placed in fed}


def test_each_batch_comes_with_the_context_sets_of_its_step_whenever_the_run_began(folder):
    run = run_file(folder)
    whole, points = contexts_by_step(run), math.prod(SHAPE)
    assert list(whole) == list(range(6))
    for step, found in whole.items():
        ratio, seed = run.meta.selection_ratio, run.train.seed
        expected = context_sets(points, ratio, run.context_sets, seed=seed, outer_step=step)
        assert found == [context.tolist() for context in expected]
    assert contexts_by_step(run, 4) == {step: whole[step] for step in (4, 5)}


def test_a_step_draws_nothing_itself(folder, monkeypatch):
    """The thread that fetches its scans has drawn its context sets, too."""
    drew: list[str] = []

    def watched(*sizes: Any, **where: Any) -> list[torch.Tensor]:
        drew.append(threading.current_thread().name)
        return context_sets(*sizes, **where)

    monkeypatch.setattr("medfuncta_dist.training.feed.context_sets", watched)
    ours = feed(run_file(folder))
    with ours.batches(0) as fed:
        given = [(placed, ours.inputs(placed.targets, placed.contexts)) for placed in fed]
    assert drew == ["prefetch"] * 6
    for placed, (targets, latents, contexts) in given:
        assert targets is placed.targets
        assert latents.requires_grad
        assert contexts is placed.contexts


def test_held_out_scans_are_not_augmented(folder):
    plain, fed = (feed(run_file(folder, **train)).validation() for train in ({}, {"augment": AUGMENT}))
    assert plain is not None
    assert fed is not None
    assert len(fed._targets) == 3
    for before, after in zip(plain._targets, fed._targets, strict=True):
        assert torch.equal(before, after)


def keys_of(run: RunFile, wanted: int, monkeypatch: pytest.MonkeyPatch, rank: int = 0, size: int = 1) -> list[str]:
    """Keys of the finishing scans, in their order, as they pass to the device."""
    seen: list[str] = []

    def watched(found: Iterable[Batch], *where: Any) -> Generator[Placed]:
        for placed in on_device(found, *where):
            seen.extend(placed.batch.keys)
            yield placed

    monkeypatch.setattr("medfuncta_dist.training.feed.on_device", watched)
    given = list(feed(run, rank, size).finishing_scans(wanted))
    assert [len(values) for values in given] == [len(part) for part in parts_of(seen, run.train.batch)]
    return seen


def parts_of(keys: list[str], size: int) -> list[list[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def test_a_network_is_finished_with_every_training_scan_once(folder, monkeypatch):
    seven = keys_of(run_file(folder), 100, monkeypatch)
    assert len(seven) == len(set(seven)) == 7, "those of the last, partial batch too"
    assert keys_of(run_file(folder, steps=200), 100, monkeypatch) == seven
    assert keys_of(run_file(folder), 5, monkeypatch) == seven[:5]
    assert keys_of(run_file(folder), 0, monkeypatch) == []


def test_ranks_share_the_scans_that_a_network_is_finished_with(folder, monkeypatch):
    seven = keys_of(run_file(folder), 100, monkeypatch)
    shares = [keys_of(run_file(folder), 100, monkeypatch, rank, 3) for rank in range(3)]
    assert sorted(key for share in shares for key in share) == sorted(seven)
    assert [len(share) for share in shares] == [3, 2, 2]
    assert keys_of(run_file(folder), 1, monkeypatch, 2, 3) == []


def test_augmented_scans_come_in_as_many_passes_as_it_takes_each_changed_otherwise(folder, monkeypatch):
    run = run_file(folder, augment=AUGMENT)
    found = torch.cat(list(feed(run).finishing_scans(15)))
    assert len(found) == 21
    assert len(found.flatten(1).unique(dim=0)) == 21
    assert torch.equal(found, torch.cat(list(feed(run).finishing_scans(15))))
    keys = keys_of(run, 15, monkeypatch)
    assert keys[:7] == keys[7:14] == keys[14:]
