from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.evaluation import dct
from medfuncta_dist.evaluation.dct import DctTask, dct_mse, dct_task, largest, moments, transformed
from medfuncta_dist.evaluation.original_scans import Pick
from medfuncta_dist.evaluation.pca import Chosen, choose_scans
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from tests.unit.latents.fitted import COUNTS, ready


def cosine_matrix(n: int) -> np.ndarray:
    """The orthonormal DCT-II as a matrix, written out."""
    rows = np.cos(np.pi * (np.arange(n) + 0.5) * np.arange(n)[:, None] / n) * np.sqrt(2 / n)
    rows[0] /= np.sqrt(2)
    return rows


def scans(count: int, values: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, values)).astype(np.float32)


@pytest.mark.parametrize(("shape", "channels"), [((7,), 1), ((4, 5), 1), ((4, 5), 3), ((2, 3, 4), 1)])
def test_the_transform_is_a_cosine_matrix_along_each_axis_of_each_channel(shape, channels):
    flat = scans(3, channels * int(np.prod(shape)))
    whole = np.eye(1)
    for n in shape:
        whole = np.kron(whole, cosine_matrix(n))
    expected = flat.reshape(3, channels, -1) @ whole.T
    assert transformed(flat, shape) == pytest.approx(expected.reshape(3, -1), abs=1e-6)
    assert transformed(transformed(flat, shape), shape, inverse=True) == pytest.approx(flat, abs=1e-6)


def test_moments_are_numpys_and_keep_no_array():
    arrays = 0.01 * scans(50, 12) + 100
    found = moments(iter(arrays))
    assert found.count == 50
    assert found.mean == pytest.approx(arrays.mean(axis=0, dtype=float))
    assert found.variance == pytest.approx(arrays.var(axis=0, dtype=float), rel=1e-6)
    assert moments(iter([])).count == 0


def test_the_largest_variances_are_kept_and_equal_ones_in_order():
    assert largest(np.array([1.0, 5.0, 3.0, 5.0]), 3).tolist() == [1, 3, 2]
    assert largest(np.array([1.0, 2.0]), 9).tolist() == [1, 0]


def test_what_is_not_kept_is_that_of_the_mean_scan(monkeypatch):
    monkeypatch.setattr(dct, "CHUNK_BYTES", 400)  # and scored a few at a time
    train, held_out, shape = scans(20, 20), scans(9, 20, seed=1), (4, 5)
    mean = transformed(train, shape).mean(axis=0)
    without = np.square(held_out - train.mean(axis=0, dtype=float)).mean(axis=1)
    assert dct_mse(mean, np.arange(0), held_out, shape) == pytest.approx(without)
    assert dct_mse(mean, np.arange(20), held_out, shape) == pytest.approx(np.zeros(9), abs=1e-12)
    kept = np.array([0, 3, 11])
    whole = np.kron(cosine_matrix(4), cosine_matrix(5))[kept]
    centred = held_out - train.mean(axis=0)
    again = np.clip(train.mean(axis=0) + centred @ whole.T @ whole, 0, 1)
    assert dct_mse(mean, kept, held_out, shape) == pytest.approx(np.square(held_out - again).mean(axis=1), rel=1e-5)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> DctTask:
    run = ready(tmp_path_factory.mktemp("run"))
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    chosen = choose_scans(snapshot.splits["train"], 144)
    picks = tuple(Pick(snapshot.splits["test"][0], row) for row in range(3))
    return DctTask(WorkerSettings.of(run), chosen, picks, coefficients=1000, shape=(12, 12))


def test_coefficients_are_bounded_by_the_values_of_a_scan_and_not_by_the_training_scans(task):
    found = dct_task(task)
    assert (found.training_scans, found.coefficients) == (COUNTS["train"], 144)
    assert found.psnr.min() > 90  # all of them: nothing is left out
    fewer = dct_task(DctTask(task.worker, task.chosen, task.picks, 30, task.shape))
    assert fewer.coefficients == 30
    assert fewer.psnr.max() < 60


def test_one_training_scan_has_no_variance_to_choose_by(task):
    alone = Chosen(task.chosen[0].shard, task.chosen[0].rows[:1])
    assert dct_task(DctTask(task.worker, (alone,), task.picks, 5, task.shape)) is None
