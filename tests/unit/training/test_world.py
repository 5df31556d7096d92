"""What ranks exchange on the host goes through no group of GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future

from medfuncta_dist.training.world import World
from tests.unit.training.ranks import on_ranks

CPU = torch.device("cpu")


class OnlyTensorsOfTheDevice(dist.ProcessGroup):
    """Stands for a group of GPUs: every exchange through it is counted, and none arrives."""

    exchanges = 0

    def getBackendName(self) -> str:
        return "counting"

    def allreduce(self, *_: Any) -> Any:
        type(self).exchanges += 1
        done = torch.futures.Future[list[torch.Tensor]]()
        done.set_result([])
        return _create_work_from_future(done)

    allgather = broadcast = allreduce


def exchanged(world: World) -> dict[str, Any]:
    return {
        "sum": world.sum([world.rank + 1, 1 / 3]),
        "gathered": world.gather(f"rank {world.rank}"),
        "told": world.broadcast_from_leader({"from": world.rank}),
        "waited": world.wait_for_leader() is None,
    }


def beside_another_group(folder: Path) -> dict[str, Any]:
    """The main group of this process is replaced by one of another kind."""
    rank, size = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()

    def create(store: Any, rank: int, size: int, timeout: Any) -> dist.ProcessGroup:
        return OnlyTensorsOfTheDevice(rank, size)

    dist.Backend.register_backend("counting", create, devices=["cpu"])
    dist.init_process_group("counting", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=size)
    world = World.from_process_group(CPU)
    found = exchanged(world) | {"own": world.host is not None, "during": OnlyTensorsOfTheDevice.exchanges}
    world.sum_on_device(torch.zeros(1))
    return found | {"after": OnlyTensorsOfTheDevice.exchanges}


def within_gloo() -> dict[str, Any]:
    world = World.from_process_group(CPU)
    part = torch.tensor([1.0, 10.0]) * (1 + world.rank)
    together = world.sum_on_device(part)
    return exchanged(world) | {"own": world.host is not None, "together": together, "part": part}


def check(rank: int, found: dict[str, Any]) -> None:
    assert found["sum"] == [3.0, 1 / 3 + 1 / 3]
    assert found["gathered"] == ["rank 0", "rank 1"]
    assert found["told"] == {"from": 0}
    assert found["waited"]


def test_the_host_has_a_group_of_its_own_beside_one_that_is_not_of_cpus(tmp_path: Path) -> None:
    for rank, found in enumerate(on_ranks(2, beside_another_group, tmp_path, folder=tmp_path)):
        check(rank, found)
        assert found["own"]
        assert (found["during"], found["after"]) == (0, 1)


def test_a_group_of_cpus_serves_the_host_too(tmp_path: Path) -> None:
    for rank, found in enumerate(on_ranks(2, within_gloo, folder=tmp_path)):
        check(rank, found)
        assert not found["own"]
        assert found["together"].tolist() == [3.0, 30.0]
        assert found["part"].tolist() == [1.0 + rank, 10.0 * (1 + rank)], "what is summed is not changed"
