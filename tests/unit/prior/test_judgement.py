"""The test for copies finds copies and clears what is drawn anew; the probe learns from samples what it can."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.prior.drawing import Drawn
from medfuncta_dist.prior.judgement import NEAREST, judge
from medfuncta_dist.prior.prior_feed import ClassedLatents

NUMBERS, NONE = 6, 2
DEVIATIONS = torch.linspace(1, 0.2, NUMBERS)


def scans(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes, a deviation apart."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (count,), generator=generator)
    whitened = torch.randn(count, NUMBERS, generator=generator)
    whitened[:, 0] += 3.0 * classes
    return whitened, classes


TRAIN, HELD_OUT = ClassedLatents(*scans(2000, 0)), ClassedLatents(*scans(1000, 1))


def test_new_scans_are_near_a_training_scan_as_often_as_held_out_scans() -> None:
    found = judge(Drawn(*scans(2000, 2)), TRAIN, HELD_OUT, DEVIATIONS, NONE)
    assert found["copied"] == pytest.approx(NEAREST, abs=0.01)
    assert found["nearest_to_samples"]["median"] == pytest.approx(found["nearest_to_held_out"]["median"], rel=0.1)
    probed = found["probe"]
    assert probed["scans"] == 2000
    real, samples = (probed[name][-1]["accuracy"] for name in ("trained_on_real", "trained_on_samples"))
    assert real > 0.9
    assert samples == pytest.approx(real, abs=0.02)


def test_copies_are_found_also_where_they_are_a_part_of_the_samples() -> None:
    copies = TRAIN.whitened + 0.01 * torch.randn(TRAIN.whitened.shape, generator=torch.Generator().manual_seed(5))
    fresh, classes = scans(2000, 3)
    for share in (1.0, 0.3):
        rows = torch.arange(2000) < share * 2000
        mixed = torch.where(rows[:, None], copies, fresh)
        found = judge(Drawn(mixed, torch.where(rows, TRAIN.classes, classes)), TRAIN, HELD_OUT, DEVIATIONS, NONE)
        assert found["copied"] == pytest.approx(share + NEAREST * (1 - share), abs=0.02)


def test_held_out_scans_that_are_in_the_training_split_too_excuse_no_copies() -> None:
    twice = HELD_OUT.whitened.clone()
    twice[:15] = TRAIN.whitened[:15]
    held_out = ClassedLatents(twice, HELD_OUT.classes)
    copies = TRAIN.whitened + 0.01 * torch.randn(TRAIN.whitened.shape, generator=torch.Generator().manual_seed(5))
    found = judge(Drawn(copies, TRAIN.classes), TRAIN, held_out, DEVIATIONS, NONE)
    assert (found["copied"], found["held_out"], found["held_out_copies"]) == (1.0, 1000, 15)
    assert judge(Drawn(copies, TRAIN.classes), TRAIN, HELD_OUT, DEVIATIONS, NONE)["held_out_copies"] == 0


def test_without_any_other_held_out_scan_nothing_can_be_judged() -> None:
    few = ClassedLatents(TRAIN.whitened[:10], TRAIN.classes[:10])
    with pytest.raises(RunFileError, match="all held-out scans are copies"):
        judge(Drawn(*scans(64, 2)), few, few, DEVIATIONS, NONE)


def test_samples_whose_classes_mean_nothing_teach_nothing() -> None:
    whitened, classes = scans(2000, 4)
    turned = classes[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    found = judge(Drawn(whitened, turned), TRAIN, HELD_OUT, DEVIATIONS, NONE)
    assert found["probe"]["trained_on_samples"][-1]["accuracy"] < 0.7


def test_scans_without_two_classes_are_judged_without_a_probe() -> None:
    unlabelled = [ClassedLatents(one.whitened, torch.full_like(one.classes, NONE)) for one in (TRAIN, HELD_OUT)]
    found = judge(Drawn(*scans(200, 2)), *unlabelled, DEVIATIONS, NONE)
    assert found["probe"] is None
