from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from medfuncta_dist.evaluation.original_scans import Pick, read_picks
from medfuncta_dist.probe import pixel_features as module
from medfuncta_dist.probe.pixel_features import fit_codes, pixel_features, reduced
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.unit.latents.fitted import packed, run_file


def archive(folder: Path) -> tuple[WorkerSettings, list[Pick], list[Pick]]:
    run = run_file(folder)
    packed(run, folder)
    worker = WorkerSettings.of(run)
    splits = load_snapshot(worker.open()[0], run.dataset, None).splits
    train, test = (
        [Pick(shard, row) for shard in splits[name] for row in range(shard.samples)] for name in ("train", "test")
    )
    return worker, train, test


def test_both_codes_are_those_of_all_scans_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    worker, train, test = archive(tmp_path)
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * 4 * 144)  # three scans at a time
    told: list[ProgressReport] = []
    codes = fit_codes(worker, train, 9, told.append)
    found = pixel_features(worker, codes, test, told.append)
    whole = [np.stack(read_picks(*worker.open(), picks)) for picks in (train, test)]
    expected = PCA(9).fit(whole[0].reshape(22, -1)).transform(whole[1].reshape(9, -1))
    assert np.abs(found["pca"]) == pytest.approx(np.abs(expected), abs=1e-4)
    assert found["pixels"] == pytest.approx(whole[1].reshape(9, 3, 4, 3, 4).mean((2, 4)).reshape(9, 9), abs=1e-6)
    assert codes.about() == {"pca": {"numbers": 9, "training_scans": 22}, "pixels": {"shape": [3, 3]}}
    assert [(one.done, one.total) for one in told][-1] == (9, 9)


def test_components_are_of_training_scans_alone_and_memory_bounds_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    worker, train, _ = archive(tmp_path)
    monkeypatch.setattr(module, "MOST_BYTES", 7 * 4 * 144)
    codes = fit_codes(worker, train, 50, lambda _: None)
    assert (codes.training_scans, len(codes.components)) == (7, 6)


@pytest.mark.parametrize(
    ("shape", "points", "small"),
    [
        ((28, 28), 128, (11, 11)),
        ((64, 64), 2048, (45, 45)),
        ((187,), 64, (64,)),
        ((32, 16, 8), 64, (8, 4, 2)),
        ((12, 12), 500, (12, 12)),
        ((100, 2), 10, (22, 1)),
    ],
)
def test_a_small_scan_keeps_proportions(shape: tuple[int, ...], points: float, small: tuple[int, ...]):
    assert reduced(shape, points) == small
