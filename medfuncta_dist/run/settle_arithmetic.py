"""The arithmetic of a run (the library of matrix products, compiled or not), settled before its first training or
fitting and kept in its run.yaml: a resumed run, and all its workers, then compute the same way or fail clearly."""

from __future__ import annotations

import sys

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.meta.device import granted_device
from medfuncta_dist.meta.machine.arithmetic import Arithmetic, Products
from medfuncta_dist.meta.machine.self_check import Trial, Verdict, self_check
from medfuncta_dist.network.core_settings import chunks_of, field_spec, sized_chunks
from medfuncta_dist.run.fan_outs import trial_fan_out
from medfuncta_dist.run.frozen_run_file import run_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, publish_bytes
from medfuncta_dist.task_map import Done, FanOut


def settle_arithmetic(run: RunFile, store: ObjectStore, fan_out: FanOut | None = None, *, fence: Guard) -> RunFile:
    """Settle what the frozen run file leaves open, and write it again. Compiling is tried by a task on a worker.

    LeaseLostError where the lease was lost: what another driver has settled stays.
    """
    if run.meta.products is not None and run.meta.compiled is not None:
        return run
    products = run.meta.products or _products(run)
    compiled = run.meta.compiled
    if compiled is None:
        compiled = _compile_wanted(run) and _compile_pays(run, products, fan_out or trial_fan_out(run))
    run = run.model_copy(
        update={"meta": run.meta.model_copy(update={"products": products, "compiled": compiled})},
    )
    publish_bytes(store, fence, run_path(run), dump(run).encode())
    return run


def _products(run: RunFile) -> Products:
    """The fastest that training and fitting can both use: oneDNN only where neither has a GPU."""
    return Arithmetic.best(granted_device(max(run.cluster.gpus_per_worker, run.gpus_per_task))).products


def _compile_wanted(run: RunFile) -> bool:
    """Only a SIREN's sweeps are compiled. On a CPU that takes minutes in every process, for a step that is a quarter
    faster: only on request."""
    if not isinstance(field_spec(run), SirenSpec):
        return False
    return run.meta.compile == "on" or (run.meta.compile == "auto" and run.cluster.gpus_per_worker > 0)


def _compile_pays(run: RunFile, products: Products, fan_out: FanOut) -> bool:
    spec = field_spec(run)
    assert isinstance(spec, SirenSpec)
    trial = Trial(
        spec,
        run.data.points,
        run.meta.selection_ratio,
        chunks_of(run) or sized_chunks(run),
        Arithmetic(products),
        run.cluster.threads,
        run.cluster.gpus_per_worker,
    )
    (outcome,) = fan_out(self_check, [trial])
    verdict = outcome.result if isinstance(outcome, Done) else Verdict(False, str(outcome.error))
    if not verdict.compiled:
        print(f"warning: this run computes without torch.compile: {verdict.reason}", file=sys.stderr)
    return bool(verdict.compiled)
