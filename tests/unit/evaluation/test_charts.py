from __future__ import annotations

import numpy as np

from medfuncta_dist.evaluation.charts import colours, running_median


def test_the_running_median_keeps_length_and_ignores_spikes():
    values = np.linspace(0, 1, 50)
    spiked = values.copy()
    spiked[20] = 100
    smooth = running_median(spiked, 5)
    assert len(smooth) == 50
    assert np.abs(smooth - values).max() < 0.1


def test_a_split_keeps_its_colour_and_all_differ():
    many = ["train", "gap", "val", "test", "a", "b"]
    assert len(set(colours(many))) == len(many)
    assert colours(["test"]) == [colours(many)[3]]
