from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.latents.curved.curved_tables import LARGEST_SYMBOL, CurvedTables
from medfuncta_dist.latents.curved.row_coder import RowCoder
from medfuncta_dist.latents.curved.table_design import design, judging, symbols_of
from tests.unit.latents.curved.made_tables import LATENT, SCANS, curvature, designed, made_latents, quality_of


def stored(tables: CurvedTables, latents: np.ndarray) -> tuple[np.ndarray, float]:
    """As they are read again, and the mean length of a stream."""
    symbols = symbols_of((latents - tables.mean.astype(np.float64)) @ tables.inverse.T)
    return tables.latents(symbols), float(np.mean([len(one) for one in RowCoder(tables).encode(symbols)]))


@pytest.mark.parametrize("bound", [0.05, 0.2, 1.0])
def test_the_step_is_the_largest_within_the_bound(bound: float) -> None:
    found = designed(bound)
    assert 0.9 * bound < found.loss <= bound
    new = made_latents(500, seed=5)
    again, length = stored(found.tables, new)
    loss = quality_of(new, curvature(), new) - quality_of(new, curvature(), again)
    assert loss.mean() == pytest.approx(bound, rel=0.15)
    assert length == pytest.approx(found.stream_bytes, rel=0.05)


def test_a_larger_bound_takes_fewer_bytes() -> None:
    lengths = [designed(bound).stream_bytes for bound in (0.05, 0.2, 1.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1] + 1


def test_directions_that_move_images_less_are_stored_coarser() -> None:
    # With the metric of images, a loss takes fewer bytes than with that of the latents themselves.
    latents = made_latents()
    judged = latents[judging(len(latents))]
    plain = design(latents, np.eye(LATENT), lambda some: quality_of(judged, curvature(), some), 0.2)
    assert designed(0.2).stream_bytes < plain.stream_bytes - 0.5


def test_the_scans_that_tell_the_step_are_not_those_of_the_directions() -> None:
    latents = made_latents()
    others = np.delete(np.arange(len(latents)), judging(len(latents)))
    moved = latents.copy()
    moved[others] = 2 * (moved[others] - 0.5) + 0.5
    judged = latents[judging(len(latents))]
    found = design(moved, curvature(), lambda some: quality_of(judged, curvature(), some), 0.2)
    assert found.stream_bytes == pytest.approx(designed().stream_bytes, rel=0.1)


def test_symbols_are_bounded() -> None:
    assert symbols_of(np.array([[1e30, -1e30, 0.4]])).tolist() == [[LARGEST_SYMBOL, -LARGEST_SYMBOL, 0]]


def test_few_training_scans_are_refused() -> None:
    with pytest.raises(MedfunctaError, match="15 training scans"):
        design(made_latents(15), curvature(), lambda some: np.zeros(len(some)), 0.2)


def test_a_few_nearly_perfect_scans_do_not_decide_the_step() -> None:
    latents = made_latents()
    judged = latents[judging(len(latents))]

    def quality(some: np.ndarray) -> np.ndarray:
        found = quality_of(judged, curvature(), some)
        blank = np.square((some.astype(np.float64) - judged)[:2]).mean(1) * 1e-4
        return np.concatenate([-10 * np.log10(1e-10 + blank), found[2:]])

    before = quality(judged)
    assert (before[:2] > 99).all()
    found = design(latents, curvature(), quality, 0.2)
    assert found.stream_bytes < 1.1 * designed().stream_bytes


@pytest.mark.parametrize("worse", [np.nan, 5.0])
def test_no_step_within_the_bound_is_an_error_with_a_way_out(worse: float) -> None:
    latents = made_latents()
    first = latents[judging(len(latents))]

    def quality(some: np.ndarray) -> np.ndarray:
        return np.full(len(some), 40.0) if (some == first).all() else np.full(len(some), 40.0 - worse)

    with pytest.raises(MedfunctaError, match="the finest step") as caught:
        design(latents, curvature(), quality, 0.2)
    assert caught.value.where == "fit.curved_loss"
    assert "fit.storage_type" in caught.value.do


@pytest.mark.parametrize(
    ("latents", "metric", "what"),
    [
        (np.full((SCANS, LATENT), 0.1, np.float32), curvature(), "all alike"),
        (made_latents(), np.zeros((LATENT, LATENT)), "no image"),
        (made_latents(), np.full((LATENT, LATENT), np.nan), "not finite"),
        (np.full((SCANS, LATENT), np.inf, np.float32), curvature(), "not finite"),
    ],
)
def test_scans_that_tell_no_directions_are_refused(latents: np.ndarray, metric: np.ndarray, what: str) -> None:
    with pytest.raises(MedfunctaError, match=what) as caught:
        design(latents, metric, lambda some: np.full(len(some), 40.0), 0.2)
    assert "fit.storage_type" in caught.value.do


def test_latents_of_one_number() -> None:
    latents, metric = made_latents()[:, :1], np.ones((1, 1))
    judged = latents[judging(len(latents))]
    found = design(latents, metric, lambda some: quality_of(judged, metric, some), 0.2)
    assert 0.18 < found.loss <= 0.2
    assert found.tables.latent == 1
