from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.evaluation import baselines
from medfuncta_dist.evaluation.baselines import CompareTask, Comparison, combine, evenly, most_picks, nearest_mse
from medfuncta_dist.evaluation.original_scans import Pick, read_picks, read_samples
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from tests.unit.latents.fitted import ready


def scans(count: int, values: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, values)).astype(np.float32)


def test_the_nearest_scan_by_brute_force():
    picks, candidates = scans(7), scans(50, seed=1)
    brute = np.square(picks[:, None].astype(float) - candidates[None]).mean(axis=2).min(axis=1)
    assert nearest_mse(picks, candidates) == pytest.approx(brute, rel=1e-12)


def test_a_scan_that_is_in_the_training_set_is_found_exactly():
    assert nearest_mse(scans(5), scans(5)[::-1]).tolist() == [0.0] * 5


def test_a_near_twin_is_measured_exactly():
    twin = scans(1) + np.float32(1e-5)
    assert nearest_mse(scans(1), twin)[0] == pytest.approx(1e-10, rel=0.05)


def test_baselines_over_several_shards_are_those_of_all_scans_together():
    picks, shards = scans(6), [scans(4, seed=1), scans(9, seed=2)]
    parts = [Comparison(s.sum(axis=0, dtype=float), len(s), nearest_mse(picks, s)) for s in shards]
    together = np.concatenate(shards)
    found = combine(picks, parts)
    error = np.square(picks - together.astype(float).mean(axis=0)).mean(axis=1)
    assert found.mean_scan == pytest.approx(-10 * np.log10(error))
    assert found.nearest == pytest.approx(-10 * np.log10(nearest_mse(picks, together)))
    assert (found.nearest != found.mean_scan).all()


@given(st.lists(st.integers(), max_size=60), st.integers(1, 40))
def test_picks_are_few_in_order_and_span_everything(items, count):
    places = evenly(range(len(items)), count)
    assert len(places) == min(count, len(items))
    assert places == sorted(set(places))
    if count > 1 and items:
        assert (places[0], places[-1]) == (0, len(items) - 1)


def test_large_scans_are_picked_in_smaller_numbers():
    assert most_picks(28 * 28) == 2048
    assert most_picks(128**3) == 64
    assert most_picks(2**40) == 1


def test_large_scans_are_compared_in_smaller_chunks(monkeypatch):
    monkeypatch.setattr(baselines, "CHUNK_BYTES", 3 * 30 * 4)
    assert [len(chunk) for chunk in baselines._chunks(iter(scans(7)))] == [3, 3, 1]
    monkeypatch.setattr(baselines, "CHUNK_BYTES", 1)
    assert [len(chunk) for chunk in baselines._chunks(iter(scans(2)))] == [1, 1]


def test_picks_are_read_once_a_process_and_one_scan_at_a_time(tmp_path, monkeypatch):
    run = ready(tmp_path)
    worker, snapshot = WorkerSettings.of(run), load_snapshot(ObjectStore(run.storage), run.dataset, None)
    [held_out, *_] = snapshot.shards("test")
    read = Counter()

    def counted(*arguments):
        for values in read_picks(*arguments):
            read["scans"] += 1
            yield values

    monkeypatch.setattr(baselines, "read_picks", counted)
    picks = (Pick(held_out, 0), Pick(held_out, 1))
    for shard in snapshot.shards("train"):
        baselines.compare_task(CompareTask(worker, shard, picks))
    assert read["scans"] == 2
    samples = read_samples(*worker.open(), [Pick(held_out, 0), Pick(held_out, held_out.samples)])
    assert next(samples).key
    with pytest.raises(IndexError):
        next(samples)
