from __future__ import annotations

import pytest
import torch

from medfuncta_dist.training.reporting.collapse import (
    ADVICE,
    FALL_DB,
    PATIENCE,
    WINDOW,
    CollapseDetector,
    is_falling,
    is_stuck,
    scatter,
    squares_about_mean,
)

SCATTER = 0.03


def findings(losses: list[float], steps: int = 1000, scatter: float = SCATTER) -> list[tuple[int, str]]:
    detector = CollapseDetector(steps)
    return [(i, found) for i, loss in enumerate(losses, 1) for found in detector.after_step(i, loss, scatter)]


@pytest.mark.parametrize(
    ("step", "loss", "stuck"),
    [(PATIENCE, 0.031, True), (PATIENCE - 1, 0.031, False), (PATIENCE, 0.020, False), (900, 0.0299, True)],
)
def test_stuck_is_a_loss_of_the_mean_scan_after_some_patience(step: int, loss: float, stuck: bool) -> None:
    assert is_stuck(step, 1000, loss, SCATTER) is stuck


def test_a_short_run_is_judged_halfway_and_an_unknown_scatter_never() -> None:
    assert is_stuck(60, 120, SCATTER, SCATTER)
    assert not is_stuck(59, 120, SCATTER, SCATTER)
    assert not is_stuck(PATIENCE, 1000, 1.0, 0.0)


def test_falling_is_far_below_the_best() -> None:
    assert is_falling(28.0, 28.0 - FALL_DB - 0.1)
    assert not is_falling(28.0, 28.0 - FALL_DB + 0.1)


def test_a_run_that_learns_and_then_rests_is_left_in_peace() -> None:
    learning = [SCATTER * 0.99**i for i in range(400)] + [SCATTER * 0.02] * 600
    noisy = [loss * (1.3 if i % 3 else 0.6) for i, loss in enumerate(learning)]
    assert findings(noisy) == []


def test_a_run_that_never_learns_is_called_stuck_once() -> None:
    assert findings([SCATTER] * 1000) == [(PATIENCE, "stuck")]


def test_a_rising_loss_is_called_falling_once_and_again_after_it_had_recovered() -> None:
    good, bad = [0.001] * 100, [0.01] * 100
    found = findings(good + bad + good + bad)
    assert [finding for _, finding in found] == ["falling", "falling"]
    assert 100 < found[0][0] <= 100 + WINDOW
    assert 300 < found[1][0] <= 300 + WINDOW


def test_a_loss_that_sways_about_the_limit_is_called_falling_once() -> None:
    detector = CollapseDetector(1000)
    reported = [detector.after_validation(db) for db in (30.0, 26.9, 27.1, 26.9, 28.5, 26.9, 29.5, 26.9)]
    assert [len(found) for found in reported] == [0, 1, 0, 0, 0, 0, 0, 1]


def test_held_out_psnr_is_judged_by_its_own_best() -> None:
    detector = CollapseDetector(1000)
    assert [detector.after_validation(db) for db in (20.0, 28.0, 27.0, 24.0, 23.0)] == [[], [], [], ["falling"], []]


def host(scans: torch.Tensor) -> tuple[float, float]:
    squares, freedom = squares_about_mean(scans)
    return float(squares), freedom


def test_ranks_add_up_to_the_variance_about_the_mean_scan() -> None:
    scans = torch.rand(7, 5, 2, generator=torch.Generator().manual_seed(0))
    assert scatter(*host(scans)) == pytest.approx(float(scans.var(0).mean()))
    ranks = [host(part) for part in (scans[:4], scans[4:6], scans[6:], scans[:0])]
    together = scatter(*(sum(column) for column in zip(*ranks, strict=True)))
    expected = (3 * scans[:4].var(0).mean() + scans[4:6].var(0).mean()) / 4
    assert together == pytest.approx(float(expected))
    assert scatter(*host(scans[:1])) == 0


def test_every_finding_comes_with_what_to_do() -> None:
    assert all("train.rate" in ADVICE[finding] for finding in ("stuck", "falling"))
