"""Each stage hands the fence of its driver on: one that lost its lease publishes nothing, whichever stage it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LeaseLostError
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.stages import evaluate_stage, fit_stage, pack_stage, train_stage
from medfuncta_dist.stages.preflight import pinned_snapshot
from medfuncta_dist.storage.leases.lease import Fence, dataset_lease, first_lease, parse_lease, run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.leases.lease_holder import this_process
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard
from medfuncta_dist.task_map import FanOut, map_here
from tests.kinds import KINDS
from tests.unit.latents.fitted import FIELD, ready
from tests.writers import write_medmnist


@dataclass
class Overtaken:
    """A driver whose run has another holder now, and everything that its stage reads."""

    run: RunFile
    store: ObjectStore
    fence: Fence

    def decided(self) -> dict[str, bytes]:
        """What others take as decided: all but leases, and data objects that no record names."""
        paths = (info.path for top in ("runs", "datasets") for info in self.store.list(top))
        return {
            path: self.store.read(path) for path in paths if path.endswith((".json", ".html")) and "lease" not in path
        }

    def lose_dataset(self, run: RunFile) -> FanOut:
        """The pack stage asks for a fan-out when it holds the data set's lease: another driver takes that over."""
        path = dataset_lease(run.dataset)
        token = parse_lease(self.store.read(path), path).token
        self.store.write(path, first_lease(token + 1, this_process(), 60).to_bytes())
        return map_here

    def train(self, run: RunFile, snapshot: str, *, fence: Guard, **_: Any) -> None:
        """In place of the trainer, which needs a cluster: its workers check the fence before they commit anything."""
        fence.require(self.store)


@pytest.fixture(params=KINDS)
def overtaken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Overtaken:
    run = ready(tmp_path, request.param, field=FIELD, train={"batch": 8})
    store = ObjectStore(run.storage)
    former = take(store, run_lease(run.name), 0.2, print)
    former.give_back()
    take(store, run_lease(run.name), 60, print)
    found = Overtaken(run, store, former.fence)
    monkeypatch.setattr(pack_stage, "cpu_fan_out", found.lose_dataset)
    monkeypatch.setattr(train_stage, "train", found.train)
    for stage in (fit_stage, evaluate_stage):
        monkeypatch.setattr(stage, "compute_fan_out", lambda run: map_here)
    return found


def more_to_pack(driver: Overtaken, folder: Path) -> None:
    write_medmnist(folder / "archive" / "more.npz", (12, 12), {"train": 4, "test": 2}, 1)


def pinned(driver: Overtaken, folder: Path) -> None:
    """By the run's holder, so that the stage gets as far as the trainer."""
    pinned_snapshot(driver.run, driver.store, ALONE)


def nothing(driver: Overtaken, folder: Path) -> None: ...


def fitted(driver: Overtaken, folder: Path) -> None:
    fit(driver.run, map_here, fence=ALONE)


@pytest.mark.parametrize(
    ("stage", "prepare"),
    [
        (pack_stage.run_pack, more_to_pack),
        (train_stage.run_train, nothing),
        (train_stage.run_train, pinned),
        (fit_stage.run_fit, nothing),
        (evaluate_stage.run_evaluate, fitted),
    ],
    ids=["pack", "train-pin", "train", "fit", "evaluate"],
)
def test_a_stage_of_a_driver_that_lost_its_lease_publishes_nothing(
    overtaken: Overtaken,
    tmp_path: Path,
    stage: Callable[..., dict[str, Any]],
    prepare: Callable[[Overtaken, Path], None],
) -> None:
    prepare(overtaken, tmp_path)
    before = overtaken.decided()
    with pytest.raises(LeaseLostError):
        stage(overtaken.run, overtaken.store, overtaken.fence)
    assert overtaken.decided() == before
