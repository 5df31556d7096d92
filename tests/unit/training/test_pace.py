from __future__ import annotations

import pytest

from medfuncta_dist.training.pace import Pace


def test_metrics_are_of_the_steps_since_the_last_ones() -> None:
    pace = Pace(batch=8)
    pace.add(loss=100.0, seconds=9.0, waited=9.0)
    pace.take()
    pace.add(loss=0.2, seconds=1.0, waited=0.25)
    pace.add(loss=0.4, seconds=3.0, waited=0.75)
    expected = {"loss": 0.3, "s_per_step": 2.0, "samples_per_s": 4.0, "data_wait": 0.25}
    assert pace.take() == pytest.approx(expected)
