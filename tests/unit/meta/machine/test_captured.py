from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.captured import (
    CHECKED,
    MOST_GRAPHS,
    Replayed,
    Work,
    agrees_with_replays,
    difference,
)
from tests.unit.meta.recorders import record_trace


def pairs(count: int = CHECKED.stop, rows: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(rows, 4, generator=generator), torch.randn(4, generator=generator)) for _ in range(count)]


def sound(left: Tensor, right: Tensor) -> list[Tensor]:
    total = torch.zeros_like(right)
    for row in left:
        total += row.sin() * right
    return [total, left @ right]


def test_replays_are_the_step_on_other_inputs() -> None:
    replayed = Replayed(sound, record_trace)
    for inputs in pairs():
        assert all(torch.equal(*both) for both in zip(replayed(*inputs), sound(*inputs), strict=True))
    assert agrees_with_replays(sound, Replayed(sound, record_trace), pairs()) == 0


def test_one_recording_for_each_shape_and_the_memory_of_a_few_at_a_time() -> None:
    recorded: list[int] = []
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        recorded.append(len(inputs[0]))
        alive.add(inputs[0])
        gc.collect()
        assert len(alive) <= MOST_GRAPHS, "what is no longer kept is released before the next is recorded"
        return record_trace(work, inputs)

    replayed = Replayed(sound, record)
    for rows in (1, 2, 1, 2, 3, 2, 3, 1, 3):
        (inputs,) = pairs(1, rows)
        assert difference(replayed(*inputs), sound(*inputs)) == 0
    assert recorded == [1, 2, 3, 1], "the one that was not used for longest makes room"


@pytest.mark.parametrize("ending_fails", [False, True])
def test_memory_that_runs_out_while_recording_is_told_as_such(ending_fails: bool) -> None:
    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            if ending_fails:  # as leaving torch.cuda.graph does where the recording is no longer valid
                raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(torch.OutOfMemoryError):
        Replayed(sound, record)(*pairs(1)[0])


def test_a_value_read_on_the_host_shows_in_later_replays() -> None:
    scale = {"now": 1.0}

    def stale(left: Tensor, right: Tensor) -> list[Tensor]:
        return [left * scale["now"]]

    replayed, inputs = Replayed(stale, record_trace), pairs()
    assert difference(replayed(*inputs[0]), stale(*inputs[0])) == 0, "the first replay cannot show it"
    scale["now"] = 2.0
    assert agrees_with_replays(stale, replayed, inputs) == pytest.approx(0.5)


def test_a_recording_that_is_wrong_at_once_is_an_error() -> None:
    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        _, results = record_trace(work, inputs)
        return lambda: None, [one * 1.01 for one in results]

    with pytest.raises(MedfunctaError, match="a replay differs") as found:
        Replayed(sound, record)(*pairs()[0])
    assert "meta.graphs: off" in found.value.do


def test_what_cannot_be_recorded_is_an_error_in_words() -> None:
    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    with pytest.raises(MedfunctaError, match=r"cannot be recorded \(RuntimeError: operation not permitted"):
        Replayed(sound, record)(*pairs()[0])


def test_lack_of_memory_stays_what_it_is() -> None:
    def record(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Replayed(sound, record)(*pairs()[0])


def test_a_value_that_is_not_finite_on_one_side_only_is_a_difference() -> None:
    one, odd = torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])
    assert difference([odd], [odd]) == 0
    assert difference([one], [odd]) == difference([odd], [one]) == torch.inf
    assert difference([one * 0], [one * 0]) == 0
