from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.telemetry.goodput import STOPPED, goodput, percentile


def event(time: float, name: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "event", "time": time, "name": name, "fields": fields}


def step(time: float, number: int, seconds: float = 1.0, wait: float = 0.0) -> dict[str, Any]:
    values = {"loss": 0.1, "s_per_step": seconds, "data_wait": wait}
    return {"kind": "metrics", "time": time, "step": number, "values": values}


def test_a_run_without_a_word_has_no_goodput() -> None:
    figures = goodput([])
    assert (figures.goodput, figures.steps, figures.recoveries, figures.wall_s) == (None, 0, 0, 0.0)


def test_start_recovery_and_redone_steps_are_lost_and_counted() -> None:
    first = [event(100, "started", step=0, setup_s=5.0), *(step(100 + n, n) for n in range(1, 7))]
    saved = [event(104, "checkpoint", step=4, stall_s=0.1, upload_s=2.0)]
    again = [
        event(120, "started", step=4, setup_s=5.0),
        step(121, 5),
        event(122, "recovered", step=7, seconds=15.0, redone=2, cause="failure"),
    ]
    rest = [
        *(step(117 + n, n) for n in range(6, 9)),
        event(125, "preempted", step=8, seconds=1.5),
        event(125, "finished", step=8),
    ]
    figures = goodput([*first, *saved, *again, *rest])
    assert figures.wall_s == 30
    assert figures.goodput == pytest.approx(8 / 30, abs=1e-4)
    assert (figures.steps, figures.attempts, figures.recoveries, figures.redone_steps) == (8, 2, 1, 2)
    assert (figures.recovery_median_s, figures.recovery_p95_s) == (15, 15)
    assert (figures.checkpoints, figures.checkpoint_stall_s, figures.checkpoint_upload_s) == (1, 0.1, 2.0)
    assert figures.preemption_save_s == 1.5
    lost = {"starting": 5, "recovering": 15, "redoing": 2, "saving": 0.1, "waiting": 0, "stalling": 0, "other": 0}
    assert figures.lost == lost


def test_a_step_counts_as_it_was_taken_last_and_without_its_wait_for_data() -> None:
    first = [event(100, "started", step=0), step(103, 1, 3.0), step(113, 2, 10.0)]
    again = [event(120, "started", step=1), step(124, 2, 4.0, wait=0.75), step(127, 3, 3.0)]
    figures = goodput([*first, *again])
    assert figures.goodput == pytest.approx((3 + 4 * 0.25 + 3) / 27, abs=1e-4)
    assert (figures.lost["waiting"], figures.s_per_step) == (3, 3)


def test_steps_beyond_the_last_attempts_are_not_of_the_result() -> None:
    first = [event(100, "started", step=0), *(step(100 + n, n) for n in range(1, 11))]
    figures = goodput([*first, event(120, "started", step=5), step(121, 6)])
    assert (figures.steps, figures.goodput) == (6, pytest.approx(6 / 21, abs=1e-4))


def test_steps_whose_lines_were_lost_with_a_worker_are_taken_for_average_ones() -> None:
    lines = [event(100, "started", step=0), step(110, 5, 2.0), event(112, "checkpoint", step=6)]
    again = [event(120, "started", step=6), step(122, 8, 1.0)]
    assert goodput([*lines, *again]).goodput == pytest.approx(8 * (5 * 2 + 2 * 1) / 7 / 22, abs=1e-4)


def test_a_step_that_was_held_up_counts_as_a_median_one() -> None:
    lines = [event(0, "started", step=0), *(step(n, n) for n in range(1, 5)), step(5.5, 5, 1.5), step(13.5, 6, 8.0)]
    figures = goodput(lines)
    assert figures.goodput == pytest.approx(6.5 / 13.5, abs=1e-4)
    assert (figures.lost["stalling"], figures.lost["other"]) == (7, 0)


def test_every_wanted_start_is_lost_time() -> None:
    first = [event(100, "started", step=0, setup_s=5.0), step(101, 1), event(101, STOPPED, step=1)]
    again = [event(900, "started", step=1, setup_s=7.0), step(901, 2), event(950, "started", step=2, setup_s=9.0)]
    assert goodput([*first, *again]).lost["starting"] == 12


def test_the_time_from_a_clean_stop_to_the_next_driver_is_nobodys() -> None:
    first = [event(100, "started", step=0, setup_s=5.0), *(step(100 + n, n) for n in range(1, 5))]
    again = [event(9012, "started", step=4, setup_s=7.0), *(step(9008 + n, n) for n in range(5, 9))]
    figures = goodput([*first, event(105, STOPPED, step=4), *again])
    assert (figures.wall_s, figures.recoveries) == (5 + 5 + 7 + 4, 0)
    assert goodput([*first, *again]).wall_s > 8000, "a driver that died has to be waited for"


def test_lines_of_older_versions_lack_fields_and_count() -> None:
    figures = goodput([event(0, "started", step=0), event(1, "checkpoint", step=4), step(2, 5)])
    assert (figures.checkpoints, figures.checkpoint_stall_s, figures.wall_s) == (1, None, 2)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_value_with_enough_below(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    enough = share * len(values) * (1 - 1e-12)
    assert sum(value <= found for value in values) >= math.floor(enough)
    assert sum(value < found for value in values) < share * len(values) + 1e-9
