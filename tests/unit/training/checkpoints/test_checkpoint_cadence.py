from __future__ import annotations

import pytest

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.training.checkpoints.checkpoint_cadence import Cadence
from medfuncta_dist.training.checkpoints.checkpoint_interval import FIRST_S


@pytest.mark.parametrize(
    ("train", "seconds"),
    [
        (Train(checkpoint_minutes=5), 300),
        (Train(checkpoint_steps=100), float("inf")),
        (Train(checkpoint_steps=100, checkpoint_minutes=1), 60),
    ],
)
def test_what_is_set_is_kept(train: Train, seconds: float) -> None:
    cadence = Cadence(train, between_failures_s=3600)
    assert cadence.seconds == seconds
    assert cadence.update(5.0, 9.0) is None
    assert cadence.seconds == seconds


def test_what_is_open_follows_the_cost_and_is_said_when_it_changes_much() -> None:
    cadence = Cadence(Train(), between_failures_s=7200)
    assert cadence.seconds == FIRST_S
    said = cadence.update(1.0, 3.0)
    assert cadence.seconds == 120
    assert said is not None
    assert "every 120 s" in said
    assert "2.0 hours" in said
    assert cadence.update(1.1, 3.0) is None
    assert cadence.update(4.0, 3.0) is not None
    assert cadence.seconds == 240
