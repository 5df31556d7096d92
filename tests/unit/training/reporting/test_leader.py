from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.telemetry.telemetry import Telemetry
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence
from medfuncta_dist.training.reporting.leader import CHECK_S, UPLOAD_DELAY_S, Leader, StepRequests


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Driver:
    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.stop = False
        self.asked = 0

    def post(self, kind: str, **fields: Any) -> None:
        self.heard.append((kind, fields))

    def stop_requested(self) -> bool:
        self.asked += 1
        return self.stop


def leader(driver: Driver, clock: Clock, leads: bool = True) -> Leader:
    cadence = Cadence(Train(checkpoint_minutes=5), between_failures_s=3600.0)
    return Leader(Telemetry([]) if leads else None, driver.post, driver.stop_requested, cadence, clock=clock)


@given(st.booleans(), st.booleans(), st.booleans())
def test_requests_survive_the_all_reduce(save: bool, check: bool, stop: bool) -> None:
    requests = StepRequests(save, check, stop)
    assert StepRequests.decode(requests.encode() + StepRequests().encode()) == requests


def test_it_wants_to_save_every_few_minutes() -> None:
    clock = Clock()
    it = leader(Driver(), clock)
    assert not it.requests(upload_running=False).save
    clock.now = 299
    assert not it.requests(upload_running=False).save
    clock.now = 300
    assert it.requests(upload_running=False).save
    it.checkpoint_taken()
    assert not it.requests(upload_running=False).save
    clock.now = 600
    assert it.requests(upload_running=False).save


def test_while_an_upload_is_under_way_the_clock_puts_the_next_one_off_but_not_for_ever() -> None:
    clock = Clock()
    it = leader(Driver(), clock)
    clock.now = 300
    assert not it.requests(upload_running=True).save
    assert it.requests(upload_running=False).save
    clock.now = 300 + UPLOAD_DELAY_S
    assert it.requests(upload_running=True).save


def test_it_asks_the_driver_now_and_then_only() -> None:
    driver, clock = Driver(), Clock()
    it = leader(driver, clock)
    driver.stop = True
    assert it.requests(upload_running=False) == StepRequests()
    clock.now = CHECK_S
    assert it.requests(upload_running=False) == StepRequests(check_preemption=True, stop=True)
    assert it.requests(upload_running=False) == StepRequests()
    assert driver.asked == 1


def test_steps_reach_the_driver_at_a_bearable_rate() -> None:
    driver, clock = Driver(), Clock()
    it = leader(driver, clock)
    for step in range(1, 101):
        clock.now += 0.1
        it.post_step(step, 0.5)
    assert 9 <= len(driver.heard) <= 11
    assert driver.heard[0] == ("step", {"step": 1, "loss": 0.5})


def test_other_ranks_do_and_want_nothing() -> None:
    driver, clock = Driver(), Clock()
    it = leader(driver, clock, leads=False)
    clock.now = 1e6
    driver.stop = True
    it.post_step(1, 0.5)
    it.notify("hello")
    it.event("checkpoint", step=1)
    it.log_validation(1, 20.0)
    it.log(1, loss=0.5)
    assert it.requests(upload_running=False) == StepRequests()
    assert driver.heard == []
