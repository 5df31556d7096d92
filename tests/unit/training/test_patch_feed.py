"""Training on patches of volumes in their own shapes: the feed of each rank, validation, and a whole train loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.network.core_settings import new_learner
from medfuncta_dist.patches.random_corner import random_corner
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.stages.preflight import check_training
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import OPEN_SHARDS, SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.stream import Batch, scan_batches
from medfuncta_dist.training import feed as feeding
from medfuncta_dist.training.feed import Feed
from medfuncta_dist.training.world import World
from tests.integration.training_runs import FIELDS
from tests.kinds import KINDS
from tests.native_scans import SHAPES, packed_volumes
from tests.unit.training.loops import trained
from tests.unit.training.ranks import on_ranks

SIZE, VISITS, BATCH = (8, 8, 8), 6, 4
ALL = (*SHAPES, (8, 8, 8), (12, 10, 9), (7, 20, 20))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    folder = tmp_path_factory.mktemp("volumes")
    return packed_volumes(folder, ALL, size=SIZE, overlap=2, fractions={"train": 0.6, "val": 0.4})


def run_of(packed: RunFile, kind: str = "siren", **train: Any) -> RunFile:
    whole = packed.model_dump(mode="json") | {"name": f"trained-{kind}"}
    given = {"batch": BATCH, "steps": 6, "rate": 1e-3, "patches_per_scan": VISITS, "validate_steps": 3, "seed": 5}
    whole["data"] |= {"dataset": "native"}
    whole["train"] |= given | {"validate_scans": 5, "optimizer": "adamw"} | train
    for name, section in FIELDS[kind].items():
        whole[name] |= section
    return RunFile.model_validate(whole | {"telemetry": {"wandb": "off", "log_steps": 1}})


def feed(run: RunFile, folder: Path, rank: int = 0, size: int = 1) -> Feed:
    store = ObjectStore(run.storage)
    local = run.model_copy(update={"cluster": run.cluster.model_copy(update={"cache": str(folder / "cache")})})
    return Feed(local, store, load_snapshot(store, run.dataset, None), World(rank, size, torch.device("cpu")))


def batches(run: RunFile, folder: Path, first: int = 0, rank: int = 0, size: int = 1) -> list[Batch]:
    with feed(run, folder, rank, size).batches(first) as fed:
        return [placed.batch for placed in fed]


def values_of(run: RunFile, folder: Path) -> dict[str, np.ndarray]:
    """(*spatial) in [0, 1] of every training scan, by key."""
    store = ObjectStore(run.storage)
    shards = load_snapshot(store, run.dataset, None).shards("train")
    reader = SampleReader(store, shards, ShardCache(store, folder / "cache", 10**9))
    ids = [SampleId(number, row) for number, shard in enumerate(shards) for row in range(shard.samples)]
    return {sample.key: sample.values()[0] for sample in scan_batches(reader, ids)}


def test_every_row_is_a_patch_of_a_training_volume_in_its_window(packed: RunFile, tmp_path: Path) -> None:
    scans = values_of(packed, tmp_path)
    fed = batches(run_of(packed), tmp_path)
    assert len(fed) == 6
    for batch in fed:
        assert batch.values.shape == (BATCH, 8**3, 1)
        for name, values in zip(batch.keys, batch.values, strict=True):
            key, visit = name.split("/")
            scan = scans[key]
            corner = random_corner(scan.shape, SIZE, seed=5, epoch=batch.epoch, key=key, visit=int(visit))
            axes = zip(corner, scan.shape, strict=True)
            places = [np.minimum(np.arange(8) + start, points - 1) for start, points in axes]
            np.testing.assert_array_equal(values[:, 0], scan[np.ix_(*places)].ravel())
    first = [key for batch in fed for key in batch.keys if batch.epoch == 0]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("augment", [None, {"flip": [0], "gain": 0.1}], ids=["plain", "augmented"])
def test_any_number_of_workers_trains_on_the_same_batches(
    packed: RunFile, tmp_path: Path, augment: dict[str, Any] | None
) -> None:
    run = run_of(packed, augment=augment)
    whole = batches(run, tmp_path)
    for world in (2, 4):
        parts = [batches(run, tmp_path, 2, rank, world) for rank in range(world)]
        for step, batch in enumerate(whole[2:]):
            assert [key for part in parts for key in part[step].keys] == batch.keys
            assert np.concatenate([part[step].values for part in parts]).tobytes() == batch.values.tobytes()


def test_a_network_is_finished_with_as_many_patches_as_are_wanted(packed: RunFile, tmp_path: Path) -> None:
    run = run_of(packed)
    fed = feed(run, tmp_path)
    visits = sum(shard.samples for shard in fed.snapshot.shards("train")) * VISITS
    found = torch.cat(list(fed.finishing_scans(visits + 1)))
    assert len(found) == 2 * visits
    assert not torch.equal(found[:visits], found[visits:]), "the second pass draws other patches"
    assert torch.equal(found, torch.cat(list(feed(run, tmp_path).finishing_scans(visits + 1))))


def test_validation_has_the_same_patches_of_held_out_volumes_shared_among_ranks(
    packed: RunFile, tmp_path: Path
) -> None:
    run = run_of(packed)

    def targets(rank: int, size: int) -> list[torch.Tensor]:
        validation = feed(run, tmp_path, rank, size).validation()
        assert validation is not None
        return validation._targets

    whole = targets(0, 1)
    assert [tuple(patch.shape) for patch in whole] == [(8**3, 1)] * 5
    parts = [targets(rank, 2) for rank in range(2)]
    assert all(torch.equal(patch, parts[n % 2][n // 2]) for n, patch in enumerate(whole))


class Alone(World):
    """Without a process group: its sums are those of one rank."""

    def sum(self, values: Sequence[float]) -> list[float]:
        return list(values)


def test_held_out_psnr_is_that_of_points_in_the_scan(
    packed: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a patch holds beyond a scan that is narrower than it: that does not count."""
    monkeypatch.setattr("medfuncta_dist.training.validation.HELD_OUT", ("train",))  # which has a narrow scan
    run = run_of(packed, validate_scans=64)
    learner = new_learner(run)
    trained = learner.trained(learner.params(), iter([]))

    def psnr(changed: bool) -> float:
        found = feed(run, tmp_path).validation()
        assert found is not None
        found._world = Alone(0, 1, torch.device("cpu"))
        beyond = [weights == 0 for weights in found._weights if weights is not None]
        assert 0 < len(beyond) < len(found._targets)
        if changed:
            for target, weights in zip(found._targets, found._weights, strict=True):
                if weights is not None:
                    target[weights == 0] = 0.5
        return found.psnr(trained, learner.coordinates)

    assert psnr(changed=True) == psnr(changed=False)


def test_an_epoch_reads_few_shards_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert feeding.SHARDS_AT_ONCE <= OPEN_SHARDS // 2
    packed = packed_volumes(tmp_path, ALL, size=SIZE, shard_scans=1)
    monkeypatch.setattr(feeding, "SHARDS_AT_ONCE", 2)
    fed = feed(run_of(packed), tmp_path)
    assert len(fed.snapshot.shards("train")) == len(ALL)
    order = fed._order(0)
    shards = [{shard for shard, _ in order.batch(g)} for g in range(order.batches)]
    assert max(map(len, shards)) <= 3, "two, and one more in the batch in which a block ends"
    assert len({shard for shard, _ in fed._order(0, bounded=False).batch(0)}) == BATCH
    assert set.union(*shards) == set(range(len(ALL)))


def test_a_batch_may_have_as_many_patches_as_an_epoch_draws(packed: RunFile) -> None:
    snapshot = load_snapshot(ObjectStore(packed.storage), packed.dataset, None)
    scans = sum(shard.samples for shard in snapshot.shards("train"))
    check_training(run_of(packed, batch=scans * VISITS), snapshot)
    with pytest.raises(Exception, match=f"of which an epoch draws {scans * VISITS} patches"):
        check_training(run_of(packed, batch=scans * VISITS + 1), snapshot)


def train_loops(runs: list[RunFile], snapshot: str) -> list[dict[str, Any]]:
    return [trained(run, snapshot) for run in runs]


def test_a_network_of_either_kind_is_trained_on_patches(packed: RunFile, tmp_path: Path) -> None:
    runs = [run_of(packed, kind) for kind in KINDS]
    snapshot = load_snapshot(ObjectStore(packed.storage), packed.dataset, None)
    [kinds] = on_ranks(1, train_loops, runs, snapshot.digest, folder=tmp_path)
    for found in kinds:
        assert found["error"] == ""
        assert [step for step, _ in found["steps"]] == list(range(1, 7))
        assert [step for step, _ in found["psnr"]] == [3, 6]
        assert found["network"] != ""
