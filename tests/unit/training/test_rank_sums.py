"""Sums over real ranks, and what each says of itself meanwhile: who waits for others is not the one that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medfuncta_dist.training.liveness.heartbeat import Heartbeat
from medfuncta_dist.training.liveness.heartbeat_sender import HeartbeatSender
from medfuncta_dist.training.rank_sums import RankSums
from medfuncta_dist.training.world import World
from tests.unit.training.ranks import on_ranks

PATIENCE_S = 20.0
FIRST = Heartbeat("1", 0, "node", 7, 0, "starting", 0, 0, waits_for_others=False, may_be_slow=True)


def until(true: Callable[[], bool]) -> bool:
    """Whether it became true in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def late_sum(folder: Path) -> dict[str, Any]:
    """Rank 1 comes to the sum when rank 0 was heard to wait there, and both go on."""
    world, heard, waits = World.from_process_group(torch.device("cpu")), list[Heartbeat](), folder / "waits"

    def hear(beat: Heartbeat) -> None:
        heard.append(beat)
        if beat.waits_for_others:
            waits.touch()

    with HeartbeatSender(hear, FIRST, timeout=0.08) as heartbeat:
        heartbeat.end_warm_up()
        heartbeat.set_phase("the inner loop", 4)
        part = torch.tensor([1.0, 10.0]) * (1 + world.rank)
        in_time = world.rank == 0 or until(waits.exists)
        total = RankSums(world, heartbeat).sum(part)
        came_back = until(lambda: heard[-1].phase == "the inner loop" and heard[-1].phases_begun == 3)
    waiting = [[beat.phase, beat.step, beat.may_be_slow] for beat in heard if beat.waits_for_others]
    return {"total": total, "part": part, "in_time": in_time, "waiting": waiting[:1], "came_back": came_back}


def test_a_rank_says_that_it_waits_for_the_others_while_it_does(tmp_path: Path) -> None:
    ranks = on_ranks(2, late_sum, tmp_path, folder=tmp_path)
    assert ranks[1]["in_time"], "nobody was heard to wait"
    assert ranks[0]["waiting"] == [["summing over ranks", 4, False]]
    for rank, found in enumerate(ranks):
        assert found["came_back"]
        assert found["total"].tolist() == [3.0, 30.0]
        assert found["part"].tolist() == [1.0 + rank, 10.0 + 10 * rank]


def test_a_sign_of_life_leaves_the_phase_as_it_is() -> None:
    heard: list[Heartbeat] = []
    world = World(0, 1, torch.device("cpu"))
    with HeartbeatSender(heard.append, FIRST, timeout=0.08) as heartbeat:
        heartbeat.set_phase("the network's latents", 9, waits_for_others=False)
        ranks = RankSums(world, heartbeat)
        for signs in (1, 2):
            ranks.alive()
            assert until(lambda signs=signs: heard[-1].life_signs == signs)
            last = heard[-1]
            assert (last.phase, last.step, last.phases_begun) == ("the network's latents", 9, 1)
    RankSums(world).alive()  # where nobody listens
