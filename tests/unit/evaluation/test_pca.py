from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.evaluation import pca
from medfuncta_dist.evaluation.original_scans import Pick
from medfuncta_dist.evaluation.pca import Chosen, PcaTask, choose_scans, components_of, pca_mse, pca_task
from medfuncta_dist.fitting.worker_settings import WorkerSettings
from medfuncta_dist.shards.snapshot import Shard, load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.latents.fitted import COUNTS, ready


def scans(count: int, values: int = 40, seed: int = 0) -> np.ndarray:
    """Scans of a few directions and a little noise, in [0, 1]."""
    random = np.random.default_rng(seed)
    waves = np.sin(np.outer(np.arange(1, 9), np.linspace(0, 3, values)))
    noise = 0.02 * random.standard_normal((count, values))
    return np.clip(0.5 + 0.15 * random.standard_normal((count, 8)) @ waves + noise, 0, 1).astype(np.float32)


def by_svd(train: np.ndarray, held_out: np.ndarray, components: int) -> np.ndarray:
    """The projection's MSE by NumPy alone, in float64."""
    train = train.astype(float)
    mean = train.mean(axis=0)
    basis = np.linalg.svd(train - mean, full_matrices=False)[2][:components]
    return np.square(held_out - np.clip(mean + (held_out - mean) @ basis.T @ basis, 0, 1)).mean(axis=1)


@pytest.mark.parametrize(("count", "components"), [(60, 5), (60, 39), (12, 11), (900, 10)])
def test_pca_is_numpys_svd(count, components):
    train, held_out = scans(count), scans(9, seed=1)
    assert pca_mse(train.copy(), held_out, components) == pytest.approx(by_svd(train, held_out, components), rel=1e-3)


def test_a_large_set_is_randomised_and_as_good(monkeypatch):
    monkeypatch.setattr(pca, "CHUNK_BYTES", 2000)  # and scored a few at a time
    train, held_out = scans(600, 700), scans(9, 700, seed=1)
    assert pca_mse(train.copy(), held_out, 8) == pytest.approx(by_svd(train, held_out, 8), rel=1e-2)
    assert pca_mse(train.copy(), held_out, 8).tolist() == pca_mse(train.copy(), held_out, 8).tolist()


@pytest.mark.parametrize(
    ("wished", "count", "values", "found"), [(64, 97, 2304, 64), (512, 97, 2304, 96), (64, 999, 30, 30), (9, 1, 30, 0)]
)
def test_components_are_what_the_latent_has_or_the_training_scans_allow(wished, count, values, found):
    assert components_of(wished, count, values) == found


def shards(*samples: int) -> list[Shard]:
    return [Shard(f"s{i}", 1, "0" * 64, n, "i", 1, "0" * 64) for i, n in enumerate(samples)]


def test_all_scans_are_taken_where_they_fit():
    assert [c.rows for c in choose_scans(shards(3, 2), 100)] == [(0, 1, 2), (0, 1)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(2, 200))
def test_a_large_split_is_thinned_evenly(samples, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pca, "MOST_BYTES", most * 4 * 100)
        patch.setattr(pca, "MOST_SHARDS", 7)
        chosen = choose_scans(shards(*samples), 100)
    assert len(chosen) <= 7
    assert all(set(c.rows) <= set(range(c.shard.samples)) and list(c.rows) == sorted(set(c.rows)) for c in chosen)
    taken = sum(len(c.rows) for c in chosen)
    assert taken <= most
    if len(samples) <= 7:
        assert taken == min(sum(samples), most)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> PcaTask:
    run = ready(tmp_path_factory.mktemp("run"))
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    chosen = choose_scans(snapshot.splits["train"], 144)
    picks = tuple(Pick(snapshot.splits["test"][0], row) for row in range(3))
    return PcaTask(WorkerSettings.of(run), chosen, picks, components=1000)


def test_the_components_are_bounded_by_the_training_scans_that_are_chosen(task):
    found = pca_task(task)
    assert (found.training_scans, found.components) == (COUNTS["train"], COUNTS["train"] - 1)
    thinned = tuple(Chosen(c.shard, c.rows[::2]) for c in task.chosen)
    found = pca_task(PcaTask(task.worker, thinned, task.picks, 1000))
    assert found.training_scans == sum(len(c.rows) for c in thinned) == found.components + 1


def test_one_training_scan_has_no_components(task):
    alone = Chosen(task.chosen[0].shard, task.chosen[0].rows[:1])
    assert pca_task(PcaTask(task.worker, (alone,), task.picks, 5)) is None
