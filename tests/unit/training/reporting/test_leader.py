from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.telemetry.telemetry import Telemetry
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence
from medfuncta_dist.training.reporting.leader import LOOK_S, PUT_OFF_S, Leader, Wishes


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Driver:
    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.stop = False
        self.asked = 0

    def tell(self, kind: str, **fields: Any) -> None:
        self.heard.append((kind, fields))

    def asked_to_stop(self) -> bool:
        self.asked += 1
        return self.stop


def leader(driver: Driver, clock: Clock, leads: bool = True) -> Leader:
    cadence = Cadence(Train(checkpoint_minutes=5), between_failures_s=3600.0)
    return Leader(Telemetry([]) if leads else None, driver.tell, driver.asked_to_stop, cadence, clock=clock)


@given(st.booleans(), st.booleans(), st.booleans())
def test_wishes_survive_the_all_reduce(save: bool, look: bool, stop: bool) -> None:
    wishes = Wishes(save, look, stop)
    assert Wishes.decode(wishes.encode() + Wishes().encode()) == wishes


def test_it_wants_to_save_every_few_minutes() -> None:
    clock = Clock()
    it = leader(Driver(), clock)
    assert not it.wishes(busy=False).save
    clock.now = 299
    assert not it.wishes(busy=False).save
    clock.now = 300
    assert it.wishes(busy=False).save
    it.saving()
    assert not it.wishes(busy=False).save
    clock.now = 600
    assert it.wishes(busy=False).save


def test_while_an_upload_is_under_way_the_clock_puts_the_next_one_off_but_not_for_ever() -> None:
    clock = Clock()
    it = leader(Driver(), clock)
    clock.now = 300
    assert not it.wishes(busy=True).save
    assert it.wishes(busy=False).save
    clock.now = 300 + PUT_OFF_S
    assert it.wishes(busy=True).save


def test_it_asks_the_driver_now_and_then_only() -> None:
    driver, clock = Driver(), Clock()
    it = leader(driver, clock)
    driver.stop = True
    assert it.wishes(busy=False) == Wishes()
    clock.now = LOOK_S
    assert it.wishes(busy=False) == Wishes(look=True, stop=True)
    assert it.wishes(busy=False) == Wishes()
    assert driver.asked == 1


def test_steps_reach_the_driver_at_a_bearable_rate() -> None:
    driver, clock = Driver(), Clock()
    it = leader(driver, clock)
    for step in range(1, 101):
        clock.now += 0.1
        it.at(step, 0.5)
    assert 9 <= len(driver.heard) <= 11
    assert driver.heard[0] == ("step", {"step": 1, "loss": 0.5})


def test_other_ranks_do_and_want_nothing() -> None:
    driver, clock = Driver(), Clock()
    it = leader(driver, clock, leads=False)
    clock.now = 1e6
    driver.stop = True
    it.at(1, 0.5)
    it.say("hello")
    it.event("checkpoint", step=1)
    it.validated(1, 20.0)
    it.log(1, loss=0.5)
    assert it.wishes(busy=False) == Wishes()
    assert driver.heard == []
