from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError, RunChangedError
from medfuncta_dist.meta.device import granted_device
from medfuncta_dist.meta.machine import compiled
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.self_check import Verdict
from medfuncta_dist.meta.sweeps.chunks import ACTIVATION_BYTES, Chunks
from medfuncta_dist.meta.sweeps.folded import fold
from medfuncta_dist.network.core_settings import arithmetic_of, chunks_of, field_spec, fit_settings, new_learner
from medfuncta_dist.run.frozen_run_file import freeze
from medfuncta_dist.run.settle_arithmetic import settle_arithmetic
from medfuncta_dist.run.settle_chunks import GPU_ACTIVATION_BYTES, activation_bytes, settle_chunks
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import Done, Failed, map_here


def run_file(*overrides: str) -> RunFile:
    return parse("{name: chunked, storage: x, data: {source: x, shape: [8, 8]}}", overrides)


def test_what_is_left_open_is_chosen_and_what_is_given_stays():
    chosen = settle_chunks(run_file(), None)
    assert chunks_of(chosen) == Chunks.sized(256, activation_bytes(run_file(), 2**40))
    part = settle_chunks(run_file("meta.chunk_points=7"), None)
    assert (part.meta.chunk_points, part.meta.chunk_scans) == (7, chosen.meta.chunk_scans)
    both = run_file("meta.chunk_points=7", "meta.chunk_scans=3")
    assert settle_chunks(both, None) is both


def test_a_run_goes_on_with_the_sizes_it_began_with(tmp_path):
    store = ObjectStore(str(tmp_path))
    freeze(run_file("meta.chunk_points=7", "meta.chunk_scans=3"), store, fence=ALONE)
    again, first = freeze(run_file(), store, fence=ALONE)
    assert not first
    assert chunks_of(again) == Chunks(7, 3)
    with pytest.raises(RunChangedError, match=r"meta\.chunk_scans: 3 -> 4"):
        freeze(run_file("meta.chunk_scans=4"), store, fence=ALONE)


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


def computing(tmp_path, *overrides):
    run = run_file("field.layers=3", "field.hidden=4", "field.latent=3", f"storage={tmp_path}", *overrides)
    return freeze(run, ObjectStore(str(tmp_path)), fence=ALONE)[0]


def test_how_a_run_computes_is_settled_once_and_kept(tmp_path, monkeypatch):
    store = ObjectStore(str(tmp_path))
    first = settle_arithmetic(computing(tmp_path), store, map_here, fence=ALONE)
    assert arithmetic_of(first) == Arithmetic.best(torch.device("cpu"))
    assert arithmetic_of(first) == new_learner(first).arithmetic == fit_settings(first).arithmetic
    monkeypatch.setattr("medfuncta_dist.meta.machine.arithmetic.onednn_works", lambda: first.meta.products == "torch")
    again = computing(tmp_path)
    assert settle_arithmetic(again, store, map_here, fence=ALONE) is again
    assert arithmetic_of(again) == arithmetic_of(first)
    with pytest.raises(MedfunctaError, match="multiplies") if first.meta.products == "onednn" else nullcontext():
        fold(field_spec(again), new_learner(again).params(), arithmetic_of(again))


def test_a_gpu_that_is_visible_but_not_granted_changes_nothing(tmp_path, visible_gpu):
    store = ObjectStore(str(tmp_path))
    run = settle_arithmetic(computing(tmp_path, "meta.compile=on"), store, in_a_task, fence=ALONE)
    assert arithmetic_of(run).products == Arithmetic.best(torch.device("cpu")).products
    assert run.meta.compiled is True


def test_products_are_such_that_training_and_fitting_can_use_them(tmp_path):
    store = ObjectStore(str(tmp_path))
    for name, keys in (
        ("fit", ["fit.gpus_per_task=0.5"]),
        ("train", ["cluster.gpus_per_worker=1", "meta.compile=off"]),
    ):
        run = computing(tmp_path, f"name={name}", *keys)
        assert settle_arithmetic(run, store, map_here, fence=ALONE).meta.products == "torch"


def in_a_task(task, items):
    """The trial's device, asked as the trial asks, without compiling for a minute."""
    assert [granted_device(trial.gpus).type for trial in items] == ["cpu"]
    return iter([Done(items[0], Verdict(True, ""))])


def test_another_choice_than_the_runs_is_refused(tmp_path):
    settle_arithmetic(computing(tmp_path, "meta.products=torch"), ObjectStore(str(tmp_path)), map_here, fence=ALONE)
    with pytest.raises(RunChangedError, match=r"meta\.products: 'torch' -> 'onednn'"):
        computing(tmp_path, "meta.products=onednn")


def test_a_compiler_that_is_wrong_is_left_out_with_one_line(tmp_path, monkeypatch, capsys):
    wrong = lambda sweep, **_: lambda *inputs: tuple(part * 1.01 for part in sweep(*inputs))  # noqa: E731
    monkeypatch.setattr(torch, "compile", wrong)
    compiled._compiled.cache_clear()
    run = settle_arithmetic(computing(tmp_path, "meta.compile=on"), ObjectStore(str(tmp_path)), map_here, fence=ALONE)
    compiled._compiled.cache_clear()
    assert run.meta.compiled is False
    (line,) = capsys.readouterr().err.splitlines()
    assert "without torch.compile: the compiled gradient_sweep differs" in line
    assert computing(tmp_path, "meta.compile=on").meta.compiled is False


def test_compiling_is_tried_where_workers_are_and_only_if_wanted(tmp_path):
    tried = []

    def fan_out(task, items):
        tried.extend(items)
        return iter([Done(items[0], Verdict(True, ""))])

    def compiled_of(name, *overrides):
        run = computing(tmp_path, f"name={name}", *overrides)
        return settle_arithmetic(run, ObjectStore(str(tmp_path)), fan_out, fence=ALONE).meta.compiled

    assert compiled_of("cpu") is False
    assert compiled_of("never", "meta.compile=off", "cluster.gpus_per_worker=1") is False
    assert tried == []
    assert compiled_of("asked", "meta.compile=on") is True
    assert compiled_of("gpu", "cluster.gpus_per_worker=1") is True
    assert [trial.arithmetic.products for trial in tried][1] == "torch"
    assert [trial.gpus for trial in tried] == [0, 1]
    assert compiled_of("given", "meta.compile=on", "meta.compiled=false") is False
    assert len(tried) == 2


def test_a_worker_that_fails_in_the_trial_means_eager(tmp_path, capsys):
    run = computing(tmp_path, "meta.compile=on")
    run = settle_arithmetic(
        run, ObjectStore(str(tmp_path)), lambda _, items: iter([Failed(items[0], OSError("it died"))]), fence=ALONE
    )
    assert run.meta.compiled is False
    assert "it died" in capsys.readouterr().err
