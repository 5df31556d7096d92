from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LimitReachedError, MedfunctaError, RunChangedError
from medfuncta_dist.latents.fit_check import fit_check
from medfuncta_dist.latents.fit_memory import block_bytes
from medfuncta_dist.meta.device import granted_device
from medfuncta_dist.meta.machine import compiled
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.gpu_memory import GpuMemory, granted_memory
from medfuncta_dist.meta.machine.self_check import Verdict
from medfuncta_dist.meta.sweeps.chunks import ACTIVATION_BYTES, Chunks, sweep_bytes
from medfuncta_dist.meta.sweeps.folded import fold
from medfuncta_dist.network.core_settings import arithmetic_of, chunks_of, field_spec, fit_settings, new_learner
from medfuncta_dist.run.frozen_run_file import freeze
from medfuncta_dist.run.settle_arithmetic import record_halving, settle_arithmetic
from medfuncta_dist.run.settle_chunks import GPU_SHARE, GPU_SWEEP_BYTES, activation_bytes, chosen_on_gpu
from medfuncta_dist.run.settle_fit import SHARE_WITH_GRAPH, block_for
from medfuncta_dist.stages.train_stage import _recorder_of_halvings
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import Done, Failed, map_here
from medfuncta_dist.training.mailbox import HALVED


def run_file(*overrides: str) -> RunFile:
    return parse("{name: chunked, storage: x, data: {source: x, shape: [8, 8]}}", overrides)


def settled(*overrides: str, fan_out=map_here, root) -> RunFile:
    store = ObjectStore(str(root))
    return settle_arithmetic(freeze(run_file(*overrides), store, ALONE)[0], store, fan_out, fence=ALONE)


def test_what_is_left_open_is_chosen_and_what_is_given_stays(tmp_path):
    chosen = settled(root=tmp_path / "open")
    assert chunks_of(chosen) == Chunks.sized(256, activation_bytes(run_file(), 2**40))
    part = settled("meta.chunk_points=7", root=tmp_path / "part")
    assert (part.meta.chunk_points, part.meta.chunk_scans) == (7, chosen.meta.chunk_scans)
    both = settled("meta.chunk_points=7", "meta.chunk_scans=3", root=tmp_path / "both")
    assert chunks_of(both) == Chunks(7, 3)


def test_a_run_goes_on_with_the_sizes_it_began_with(tmp_path):
    store = ObjectStore(str(tmp_path))
    freeze(run_file("meta.chunk_points=7", "meta.chunk_scans=3"), store, fence=ALONE)
    again, first = freeze(run_file(), store, fence=ALONE)
    assert not first
    assert chunks_of(again) == Chunks(7, 3)
    with pytest.raises(RunChangedError, match=r"meta\.chunk_scans: 3 -> 4"):
        freeze(run_file("meta.chunk_scans=4"), store, fence=ALONE)


def test_a_stage_that_only_reads_and_writes_settles_nothing_for_those_that_compute(tmp_path):
    """A job that packs has no GPU, whatever the jobs after it have."""
    store = ObjectStore(str(tmp_path))
    freeze(run_file(*PAPER), store, ALONE)
    run, _ = freeze(run_file("cluster.gpus_per_worker=1", *PAPER), store, ALONE)
    assert chunks_of(settle_arithmetic(run, store, workers_with_a_gpu([]), fence=ALONE)).scans == 24


def test_memory_decides_and_the_cache_is_enough():
    assert activation_bytes(run_file(), 2**40) == ACTIVATION_BYTES
    little = activation_bytes(run_file(), 2**28)
    assert little < ACTIVATION_BYTES
    assert activation_bytes(run_file("cluster.workers=2"), 2**28) == pytest.approx(little / 2, abs=1)
    assert activation_bytes(run_file(), 0) == 4 * 256  # one point of one scan always fits


PAPER = ("field.kind=siren", "field.layers=15", "field.latent=2048", "data.shape=[64, 64]", "train.batch=24")


def test_on_a_gpu_chunks_wait_for_its_free_memory_and_take_whole_context_sets():
    run = run_file("cluster.gpus_per_worker=1", *PAPER)
    chunks = Chunks(**{key.removeprefix("chunk_"): value for key, value in chosen_on_gpu(run, 70 * 2**30).items()})
    assert chunks.scans == 24
    assert chunks.points >= 1024
    assert 24 * chunks.points * sweep_bytes(15, 256) <= GPU_SWEEP_BYTES
    little = chosen_on_gpu(run, 2**30)
    assert 24 * little["chunk_points"] * sweep_bytes(15, 256) <= GPU_SHARE * 2**30
    assert chosen_on_gpu(run, 0) == {"chunk_points": 1, "chunk_scans": 1}
    ranks = run_file("cluster.gpus_per_worker=1", "cluster.workers=8", *PAPER)
    assert chosen_on_gpu(ranks, 70 * 2**30) == {"chunk_points": 4096, "chunk_scans": 3}


def test_a_stage_without_a_gpu_decides_for_all(tmp_path):
    mixed = ["cluster.gpus_per_worker=1", "fit.gpus_per_task=0"]
    found = settled(*mixed, root=tmp_path / "mixed", fan_out=workers_with_a_gpu([]))
    assert chunks_of(found) == chunks_of(settled(root=tmp_path / "cpu"))


def test_halvings_are_kept_and_counted_in():
    run = run_file("meta.chunk_points=8", "meta.chunk_scans=3", "meta.halvings=4")
    assert chunks_of(run) == Chunks(1, 1)


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
    assert (first.meta.precision, first.meta.captured) == (None, False)
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
        ("train", ["cluster.gpus_per_worker=1", "meta.compile=off", "meta.graphs=off"]),
    ):
        run = computing(tmp_path, f"name={name}", *keys)
        settled = settle_arithmetic(run, store, workers_with_a_gpu([]), fence=ALONE).meta
        assert (settled.products, settled.precision) == ("torch", "fp32")


def test_a_basis_field_is_in_float32_and_a_run_of_earlier_versions_stays_so(tmp_path):
    store, fan_out = ObjectStore(str(tmp_path)), workers_with_a_gpu([])
    gpu = "cluster.gpus_per_worker=1"
    computed = ["meta.products=torch", "meta.compiled=false", "meta.chunk_points=7", "meta.chunk_scans=3"]
    for name, precision, keys in (
        ("basis", "fp32", ["field.kind=basis", "field.features=8"]),
        ("earlier", "fp32", computed),
        ("new", "fp32", computed[:1]),
        ("given", "tf32x3", [*computed[:1], "meta.precision=tf32x3"]),
    ):
        run = computing(tmp_path, f"name={name}", gpu, *keys)
        assert settle_arithmetic(run, store, fan_out, fence=ALONE).meta.precision == precision


def test_chunks_of_a_gpu_are_settled_by_what_its_worker_has_free_and_kept(tmp_path):
    store, asked = ObjectStore(str(tmp_path)), []
    keys = ["cluster.gpus_per_worker=1", "meta.chunk_scans=2"]
    settled = settle_arithmetic(computing(tmp_path, *keys), store, workers_with_a_gpu(asked), fence=ALONE)
    assert asked == [1, 1], "for training, and for fitting"
    assert chunks_of(settled) == Chunks(64, 2)
    assert settled.fit.block_scans == fit_settings(settled).block == settled.fit.batch
    again = computing(tmp_path, *keys)
    assert chunks_of(again) == Chunks(64, 2)
    assert settle_arithmetic(again, store, workers_with_a_gpu(asked), fence=ALONE) is again
    assert asked == [1, 1]


def test_a_block_of_scans_follows_from_the_memory_of_a_share_of_a_gpu(tmp_path):
    keys = ["meta.chunk_points=1170", "meta.chunk_scans=24", "fit.gpus_per_task=0.5", "fit.method=gauss-newton"]
    run = run_file(*PAPER, *keys)
    apiece = block_bytes(field_spec(run), 4096, fit_settings(run))
    assert 2 * 4 * 2048**2 < apiece < 2**30
    assert block_for(run, 7 * 2**30) == int(SHARE_WITH_GRAPH * 7 * 2**30) // apiece < run.fit.batch
    eager = run_file(*PAPER, *keys, "meta.graphs=off")
    assert block_for(eager, 7 * 2**30) == int(GPU_SHARE * 7 * 2**30) // apiece
    assert block_for(run, 7 * 2**40) == run.fit.batch
    assert block_for(run, 0) == 1
    store, asked = ObjectStore(str(tmp_path)), []
    settled = settle_arithmetic(computing(tmp_path, *keys), store, workers_with_a_gpu(asked), fence=ALONE)
    assert (asked, settled.fit.block_scans) == ([0.5], settled.fit.batch)


def workers_with_a_gpu(asked, verdict=Verdict(True, True, "")):  # noqa: B008
    """A fan-out to workers that each have a GPU with 70 GiB free; ``asked``: the grants of those that were asked."""

    def fan_out(task, items):
        if task is fit_check:
            return iter([Done(next(iter(items)), verdict)])
        if task is granted_memory:
            asked.extend(items)
            return iter([Done(next(iter(items)), GpuMemory("a card", 70 * 2**30))])
        return iter([Done(next(iter(items)), verdict)])

    return fan_out


def in_a_task(task, items):
    """The trial's device, asked as the trial asks, without compiling for a minute."""
    assert [granted_device(trial.gpus).type for trial in items] == ["cpu"]
    return iter([Done(next(iter(items)), Verdict(True, False, ""))])


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
        if task in (granted_memory, fit_check):
            return workers_with_a_gpu([])(task, items)
        (trial,) = items
        tried.append(trial)
        return iter([Done(trial, Verdict(trial.compiling, trial.graphs, ""))])

    def ways_of(name, *overrides):
        run = computing(tmp_path, f"name={name}", *overrides)
        meta = settle_arithmetic(run, ObjectStore(str(tmp_path)), fan_out, fence=ALONE).meta
        return meta.compiled, meta.captured

    gpu = "cluster.gpus_per_worker=1"
    assert ways_of("cpu") == (False, False)
    assert ways_of("never", "meta.compile=off", "meta.graphs=off", "meta.products=torch", gpu) == (False, False)
    assert tried == []
    assert ways_of("asked", "meta.compile=on", "meta.graphs=on") == (True, False)
    assert ways_of("gpu", gpu) == (True, True)
    assert [trial.arithmetic.products for trial in tried][1] == "torch"
    assert [trial.arithmetic.precision for trial in tried] == ["fp32", "fp32"]
    assert [trial.kernels for trial in tried] == [None, "tf32x3"]
    assert [trial.gpus for trial in tried] == [0, 1]
    assert [trial.inner_steps for trial in tried] == [1, 10]
    assert ways_of("given", "meta.compile=on", "meta.compiled=false") == (False, False)
    assert len(tried) == 2
    assert ways_of("recorded", "meta.compiled=true", gpu) == (True, True)
    assert (tried[-1].compiling, tried[-1].arithmetic.compiled) == (False, True)
    assert ways_of("wanted", "meta.captured=false", gpu) == (True, False)


def test_kernels_are_tried_where_training_and_fitting_have_gpus(tmp_path, capsys):
    tried, store = [], ObjectStore(str(tmp_path))

    def settled(name, verdict, *overrides):
        def fan_out(task, items):
            if task in (granted_memory, fit_check):
                return workers_with_a_gpu([])(task, items)
            tried.extend(items)
            return iter([Done(next(iter(items)), verdict)])

        run = settle_arithmetic(computing(tmp_path, f"name={name}", *overrides), store, fan_out, fence=ALONE)
        meta = run.meta
        return meta.products, meta.precision, meta.compiled, meta.captured

    gpu, taken = "cluster.gpus_per_worker=1", Verdict(False, True, "faster", "triton", "tf32x3")
    assert settled("both", taken, gpu) == ("triton", "tf32x3", False, True)
    assert (tried[-1].kernels, tried[-1].arithmetic.products) == ("tf32x3", "torch")
    assert capsys.readouterr().err == ""
    assert settled("given", replace(taken, precision="tf32"), gpu, "meta.precision=tf32") == (
        "triton",
        "tf32",
        False,
        True,
    )
    assert tried[-1].kernels == "tf32"
    assert settled("slower", Verdict(False, False, "they gain nothing"), gpu) == ("torch", "fp32", False, False)
    assert "without kernels of its own: they gain nothing" in capsys.readouterr().err
    for keys in (["meta.products=torch"], ["meta.precision=fp32"], ["fit.gpus_per_task=0"]):
        settled(f"not-{len(tried)}", Verdict(False, False, ""), gpu, *keys)
        assert tried[-1].kernels is None


def test_a_worker_that_fails_in_the_trial_means_eager(tmp_path, capsys):
    run = computing(tmp_path, "meta.compile=on")
    run = settle_arithmetic(
        run,
        ObjectStore(str(tmp_path)),
        lambda _, items: iter([Failed(next(iter(items)), OSError("it died"))]),
        fence=ALONE,
    )
    assert run.meta.compiled is False
    assert "it died" in capsys.readouterr().err


def test_recording_fits_is_tried_where_tasks_fit(tmp_path, capsys):
    store, tried = ObjectStore(str(tmp_path)), []

    def fan_out(task, items):
        if task is not fit_check:
            return workers_with_a_gpu([])(task, items)
        tried.extend(items)
        return iter([Done(next(iter(items)), Verdict(False, len(tried) < 2, "it does not pay"))])

    def captured(name, *overrides):
        run = settle_arithmetic(computing(tmp_path, f"name={name}", *overrides), store, fan_out, fence=ALONE)
        return run.fit.captured, fit_settings(run).arithmetic.captured

    gpu = "cluster.gpus_per_worker=1"
    assert captured("cpu", "meta.graphs=on") == captured("never", gpu, "meta.graphs=off") == (False, False)
    assert captured("trained-only", gpu, "fit.gpus_per_task=0") == (False, False)
    assert tried == []
    assert captured("shared", gpu, "fit.gpus_per_task=0.25") == (True, True)
    assert (tried[0].gpus, tried[0].settings.arithmetic.precision) == (0.25, "fp32")
    assert captured("slow", gpu) == (False, False)
    assert "warning: this run fits without CUDA graphs: it does not pay" in capsys.readouterr().err
    assert captured("given", gpu, "fit.captured=true") == (True, True)
    assert len(tried) == 2


def test_memory_that_ran_out_is_remembered(tmp_path):
    store = ObjectStore(str(tmp_path))
    run = settled("meta.chunk_points=8", "meta.chunk_scans=3", root=tmp_path)
    listen = _recorder_of_halvings(run, store, ALONE)
    listen("step", {})
    assert freeze(run_file(), store, ALONE)[0].meta.halvings is None
    listen(HALVED, {"rank": 0, "points": 4, "scans": 3})
    listen(HALVED, {"rank": 1, "points": 4, "scans": 3})
    again, _ = freeze(run_file(), store, ALONE)
    assert (again.meta.halvings, chunks_of(again)) == (1, Chunks(4, 3))
    record_halving(again, store, ALONE)
    assert freeze(run_file(), store, ALONE)[0].meta.halvings == 2


def test_what_waits_for_a_worker_to_settle_the_run_ends_at_its_limit(tmp_path):
    """As Ray does where no node has a GPU: nothing comes back until the items are over."""

    def without_room(task, items):
        while not items.is_over():
            asked.append(task)
        return iter(())

    asked = []
    limit = LimitReachedError("the run has used its hours")
    run = computing(tmp_path, "cluster.gpus_per_worker=1")
    with pytest.raises(LimitReachedError, match="used its hours"):
        settle_arithmetic(
            run,
            ObjectStore(str(tmp_path)),
            without_room,
            fence=ALONE,
            limit_reached=lambda: limit if len(asked) > 2 else None,
        )
    assert len(asked) == 3
