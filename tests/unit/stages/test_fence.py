"""Two drivers of one run: what the one that lost its lease would still decide, it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LeaseLostError
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.network.core_settings import new_learner
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.run.frozen_run_file import freeze, thaw
from medfuncta_dist.run.settle_arithmetic import settle_arithmetic
from medfuncta_dist.stages import chain, run_summary
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.stages.preflight import pinned_snapshot
from medfuncta_dist.storage.leases.lease import Fence, first_lease, parse_lease, run_lease
from medfuncta_dist.storage.leases.lease_claim import Claim, take
from medfuncta_dist.storage.leases.lease_holder import this_process
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import ready
from tests.writers import write_medmnist


def run_file(folder: Path, **changes: Any) -> RunFile:
    data = {"source": str(folder / "images.npz"), "shape": [8, 8], "private": str(folder / "private")}
    whole = {"name": "r", "storage": str(folder / "store"), "data": data, "train": {"batch": 4}}
    field = {"layers": 3, "hidden": 4, "latent": 3}
    return parse(yaml.safe_dump(whole | {"field": field} | changes))


@dataclass
class Drivers:
    """One whose lease was taken over while it stood still, and its successor; both have read the same storage."""

    folder: Path
    store: ObjectStore
    late: Fence
    holder: Claim

    def content(self) -> dict[str, bytes]:
        """Everything in the run's folder but its lease and networks' data objects."""
        files = (path for path in (self.folder / "store" / "runs").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files if not path.name.startswith(("lease", "network."))}


@pytest.fixture
def drivers(tmp_path: Path) -> Drivers:
    write_medmnist(tmp_path / "images.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    run = run_file(tmp_path)
    pack(run, map_here, lambda _: None)
    store = ObjectStore(run.storage)
    late = take(store, run_lease("r"), 0.2, print)
    late.give_back()
    return Drivers(tmp_path, store, late.fence, take(store, run_lease("r"), 60, print))


def network(run: RunFile, store: ObjectStore, fence: Fence) -> None:
    learner = new_learner(run)
    trained = learner.trained(learner.params(), [])
    commit_network(store, run, pinned_snapshot(run, store, fence), trained, None, None, fence)


DECISIONS: dict[str, Callable[[RunFile, ObjectStore, Fence], object]] = {
    "freeze": freeze,
    "settle": lambda run, store, fence: settle_arithmetic(run, store, map_here, fence=fence),
    "pin": pinned_snapshot,
    "network": network,
    "summary": lambda run, store, fence: run_summary.merge(store, "r", "pack", {"seconds": run.train.seed}, fence),
    "thaw": thaw,
}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_driver_that_lost_its_lease_decides_nothing(drivers: Drivers, name: str) -> None:
    mine = run_file(drivers.folder, meta={"products": "torch"})
    if name == "network":  # the pin is there already: its record is what is at stake
        pinned_snapshot(mine, drivers.store, drivers.holder.fence)
    with pytest.raises(LeaseLostError):
        DECISIONS[name](mine, drivers.store, drivers.late)
    assert not {path for path in drivers.content() if not path.endswith("pin.json")}


@pytest.mark.parametrize("name", DECISIONS)
def test_what_its_successor_decided_keeps_every_byte(drivers: Drivers, name: str) -> None:
    successor = run_file(drivers.folder)
    for decide in list(DECISIONS.values())[:-1]:
        decide(successor, drivers.store, drivers.holder.fence)
    before = drivers.content()
    assert {Path(path).name for path in before} == {"run.yaml", "pin.json", "commit.json", "summary.json"}
    # Another seed gives another network and other figures; a worker is free to change, and changes run.yaml.
    late = run_file(drivers.folder, train={"batch": 4, "seed": 9}, cluster={"workers": 2})
    late = late.model_copy(update={"train": successor.train}) if name == "freeze" else late
    if name == "pin":  # reading it is no decision
        assert pinned_snapshot(late, drivers.store, drivers.late)
    else:
        with pytest.raises(LeaseLostError):
            DECISIONS[name](late, drivers.store, drivers.late)
    assert drivers.content() == before


def test_a_report_is_not_written_by_who_lost_the_lease(tmp_path: Path) -> None:
    run = ready(tmp_path)
    store = ObjectStore(run.storage)
    fit(run, map_here)
    late = take(store, run_lease(run.name), 0.2, print)
    late.give_back()
    take(store, run_lease(run.name), 60, print)
    with pytest.raises(LeaseLostError):
        evaluate(run, map_here, fence=late.fence)
    assert not store.list(f"runs/{run.name}/report")


def test_the_chain_hands_its_fence_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that loses its lease right after it has taken it, before it froze anything."""
    run = run_file(tmp_path)
    store = ObjectStore(run.storage)

    def overtaken(run: RunFile, store: ObjectStore, fence: Fence) -> Any:
        path = run_lease(run.name)
        token = parse_lease(store.read(path), path).token
        store.write(path, first_lease(token + 1, this_process(), 60).to_bytes())
        return freeze(run, store, fence)

    monkeypatch.setattr(chain, "freeze", overtaken)
    with pytest.raises(LeaseLostError):
        run_stages(run, ["pack"])
    left = [info.path for info in store.list("runs") if "/logs/" not in info.path]  # a log is of its attempt only
    assert left == ["runs/r/lease.json"]
