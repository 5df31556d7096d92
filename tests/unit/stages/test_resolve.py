from __future__ import annotations

import pytest

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.latents.settings import chunks_of, fit_settings
from medfuncta_dist.meta.chunks import ACTIVATION_BYTES, Chunks
from medfuncta_dist.stages.resolve import GPU_ACTIVATION_BYTES, activation_bytes, resolved
from medfuncta_dist.stages.run_record import freeze
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.training.network import new_learner


def run_file(*overrides: str) -> RunFile:
    return parse("{name: chunked, storage: x, data: {source: x, shape: [8, 8]}}", overrides)


def test_what_is_left_open_is_chosen_and_what_is_given_stays():
    chosen = resolved(run_file(), None)
    assert chunks_of(chosen) == Chunks.sized(256, activation_bytes(run_file(), 2**40))
    part = resolved(run_file("meta.chunk_points=7"), None)
    assert (part.meta.chunk_points, part.meta.chunk_scans) == (7, chosen.meta.chunk_scans)
    both = run_file("meta.chunk_points=7", "meta.chunk_scans=3")
    assert resolved(both, None) is both


def test_a_run_goes_on_with_the_sizes_it_began_with(tmp_path):
    store = ObjectStore(str(tmp_path))
    freeze(run_file("meta.chunk_points=7", "meta.chunk_scans=3"), store)
    again, first = freeze(run_file(), store)
    assert not first
    assert chunks_of(again) == Chunks(7, 3)
    with pytest.raises(RunChangedError, match=r"meta\.chunk_scans: 3 -> 4"):
        freeze(run_file("meta.chunk_scans=4"), store)


def test_memory_decides_and_the_cache_is_enough():
    assert activation_bytes(run_file(), 2**40) == ACTIVATION_BYTES
    little = activation_bytes(run_file(), 2**28)
    assert little < ACTIVATION_BYTES
    assert activation_bytes(run_file("cluster.workers=2"), 2**28) == pytest.approx(little / 2, abs=1)
    assert activation_bytes(run_file(), 0) == 4 * 256  # one point of one scan always fits
    assert activation_bytes(run_file("cluster.gpus_per_worker=1"), 0) == GPU_ACTIVATION_BYTES


def test_training_and_fitting_take_them():
    run = run_file("meta.chunk_points=7", "meta.chunk_scans=3", "field.hidden=8", "field.latent=8")
    assert fit_settings(run).chunks == Chunks(7, 3)
    assert new_learner(run).chunks == Chunks(7, 3)
