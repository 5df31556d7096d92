"""How a run computes (chunk sizes, library and precision of products, compiled, recorded), settled before its first
training or fitting and kept in its run.yaml: a resumed run, and all its workers, then compute the same way or fail
clearly."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.meta.device import granted_device
from medfuncta_dist.meta.machine.arithmetic import Arithmetic, Products
from medfuncta_dist.meta.machine.precision import Precision
from medfuncta_dist.meta.machine.self_check import Trial, Verdict, self_check
from medfuncta_dist.network.core_settings import chunks_of, field_spec, sized_chunks
from medfuncta_dist.run.fan_outs import compute_fan_out, trial_fan_out
from medfuncta_dist.run.frozen_run_file import run_path
from medfuncta_dist.run.settle_chunks import chosen_on_cpu, chosen_on_gpu, computes_on_gpus_alone, free_on_worker
from medfuncta_dist.run.settle_fit import settle_fit
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, publish_bytes
from medfuncta_dist.task_map import Done, FanOut, limited


def settle_arithmetic(
    run: RunFile,
    store: ObjectStore,
    fan_out: FanOut | None = None,
    *,
    fence: Guard,
    limit_reached: Callable[[], MedfunctaError | None] = lambda: None,
) -> RunFile:
    """Settle what the frozen run file leaves open, and write it again. What a GPU has free, and whether compiling and
    recording pay, tasks on a worker find out.

    LeaseLostError where the lease was lost: what another driver has settled stays. ``limit_reached``'s error, if a task
    waits for a worker until then.
    """
    settled = _settled(run, limited(fan_out or trial_fan_out(run), limit_reached))
    settled = settle_fit(settled, limited(fan_out or compute_fan_out(run), limit_reached))
    if settled is run:
        return run
    publish_bytes(store, fence, run_path(settled), dump(settled).encode())
    return settled


def record_halving(run: RunFile, store: ObjectStore, fence: Guard) -> None:
    """Keep in the run's run.yaml that memory ran out: whoever goes on with the run begins with half the chunks.

    LeaseLostError where the lease was lost. Once per command, however many workers ran out.
    """
    halvings = 1 + (run.meta.halvings or 0)
    halved = run.model_copy(update={"meta": run.meta.model_copy(update={"halvings": halvings})})
    publish_bytes(store, fence, run_path(run), dump(halved).encode())


def _settled(run: RunFile, fan_out: FanOut) -> RunFile:
    # Whoever has computed has both: the run file of a new run may give one.
    first = run.meta.products is None or run.meta.chunk_points is None
    if run.meta.chunk_points is None or run.meta.chunk_scans is None:
        run = _with(run, **_chunks(run, fan_out))
    kernels = _kernels(run) if first else None
    if run.meta.products is None:
        run = _with(run, products=_products(run))
    if run.meta.precision is None and _most_gpus(run):
        # A run that is older than the key has computed in float32, and goes on so.
        run = _with(run, precision="fp32")
    if run.meta.compiled is None or run.meta.captured is None or kernels:
        run = _with(run, **_ways(run, kernels, fan_out))
    return run


def _with(run: RunFile, **keys: Any) -> RunFile:
    return run.model_copy(update={"meta": run.meta.model_copy(update=keys)})


def _chunks(run: RunFile, fan_out: FanOut) -> dict[str, Any]:
    if computes_on_gpus_alone(run):
        chosen = chosen_on_gpu(run, free_on_worker(run.cluster.gpus_per_worker, fan_out))
    else:
        chosen = chosen_on_cpu(run)
    return {key: value for key, value in chosen.items() if getattr(run.meta, key) is None}


def _most_gpus(run: RunFile) -> float:
    return max(run.cluster.gpus_per_worker, run.gpus_per_task)


def _products(run: RunFile) -> Products:
    """The fastest that training and fitting can both use: oneDNN only where neither has a GPU."""
    return Arithmetic.best(granted_device(_most_gpus(run))).products


def _kernels(run: RunFile) -> Precision | None:
    """The precision in which our GPU kernels are tried: as given, else the one that is close to float32.

    None where they have nothing to gain: for a basis field, in float32, and where training or fitting has no GPU.
    """
    of_gpus = min(run.cluster.gpus_per_worker, run.gpus_per_task) > 0
    if run.meta.products is not None or run.meta.precision == "fp32" or not of_gpus:
        return None
    return (run.meta.precision or "tf32x3") if isinstance(field_spec(run), SirenSpec) else None


def _ways(run: RunFile, kernels: Precision | None, fan_out: FanOut) -> dict[str, Any]:
    """Whether to compile and to record, and whose kernels: as given, or as a trial finds. Only a SIREN's sweeps have
    the choice.

    Compiling takes minutes on a CPU, in every process, for a step that is a quarter faster: only on request.
    """
    meta, on_gpu, siren = run.meta, run.cluster.gpus_per_worker > 0, isinstance(field_spec(run), SirenSpec)
    compiling = siren and meta.compiled is None and (meta.compile == "on" or (meta.compile == "auto" and on_gpu))
    graphs = siren and meta.captured is None and meta.graphs != "off" and on_gpu
    if not (compiling or graphs or kernels):
        return {"compiled": bool(meta.compiled), "captured": bool(meta.captured)}
    verdict = _tried(run, compiling, graphs, kernels, fan_out)
    for name, tried, taken in (
        ("torch.compile", compiling, verdict.compiled or verdict.products is not None),
        ("CUDA graphs", graphs, verdict.captured),
        ("kernels of its own", kernels, verdict.products is not None),
    ):
        if tried and not taken:
            print(f"warning: this run computes without {name}: {verdict.reason}", file=sys.stderr)
    found: dict[str, Any] = {
        "compiled": verdict.compiled if compiling else bool(meta.compiled) and verdict.products is None,
        "captured": verdict.captured if graphs else bool(meta.captured),
    }
    return found | ({"products": verdict.products, "precision": verdict.precision} if verdict.products else {})


def _tried(run: RunFile, compiling: bool, graphs: bool, kernels: Precision | None, fan_out: FanOut) -> Verdict:
    spec, precision = field_spec(run), run.meta.precision or "fp32"
    assert isinstance(spec, SirenSpec)
    assert run.meta.products is not None
    trial = Trial(
        spec,
        run.data.points,
        run.meta.selection_ratio,
        math.ceil(run.train.batch / run.cluster.fewest_workers),
        run.meta.inner_steps if run.cluster.gpus_per_worker else 1,  # on a CPU, one is enough to tell
        chunks_of(run) or sized_chunks(run),
        Arithmetic(run.meta.products, compiled=bool(run.meta.compiled), precision=precision),
        run.cluster.threads,
        run.cluster.gpus_per_worker,
        compiling,
        graphs,
        kernels,
    )
    (outcome,) = fan_out(self_check, [trial])
    return outcome.result if isinstance(outcome, Done) else Verdict(False, False, str(outcome.error))
