"""Numbers of steps: read one step later, in order, each beside its own step."""

from __future__ import annotations

import torch

from medfuncta_dist.training.step_numbers import DeviceMoment, SentNumbers, StepNumbers

CPU = torch.device("cpu")


def test_the_last_step_is_read_only_when_asked_for() -> None:
    numbers = StepNumbers[str](lambda step: None, lambda step: None)
    assert list(numbers.read(all_steps=True)) == []
    read = []
    for step in range(4):
        numbers.add(f"step {step}", torch.tensor([step / 3, -1.0], dtype=torch.float64), DeviceMoment(CPU))
        read.append(list(numbers.read(all_steps=step == 2)))
    assert read == [[], [("step 0", [0.0, -1.0])], [("step 1", [1 / 3, -1.0]), ("step 2", [2 / 3, -1.0])], []]
    assert list(numbers.read(all_steps=True)) == [("step 3", [1.0, -1.0])]
    assert list(numbers.read(all_steps=True)) == []


def test_whoever_waits_is_told_for_what_before_each_step() -> None:
    told: list[tuple[str, int]] = []
    numbers = StepNumbers[int](lambda step: told.append(("own", step)), lambda step: told.append(("others", step)))
    for step in range(2):
        numbers.add(step, torch.zeros(1), DeviceMoment(CPU))
    for step, _ in numbers.read(all_steps=True):
        told.append(("read", step))
    assert told == [(what, step) for step in range(2) for what in ("own", "others", "read")]


def test_numbers_are_those_of_the_moment_when_they_were_sent() -> None:
    numbers = torch.tensor([1.0, 2.0])
    sent = SentNumbers(numbers)
    numbers.zero_()
    assert sent.read() == [1.0, 2.0]
