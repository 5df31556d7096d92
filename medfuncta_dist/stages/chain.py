"""Runs stages in order. A stage is refused before it starts if its input is missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import COMPUTING, require_stages
from medfuncta_dist.config.submission_id import submission_id
from medfuncta_dist.errors import NothingPackedError, RunFileError
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.frozen_run_file import freeze, require_writable, thaw
from medfuncta_dist.run.idempotency import Submission
from medfuncta_dist.run.stage_progress import limit_before_stage
from medfuncta_dist.run.terminal_record import recording_final_failure
from medfuncta_dist.stages import run_summary
from medfuncta_dist.storage.leases.lease import Fence, run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import remove_leftovers_once
from medfuncta_dist.task_map import limited
from medfuncta_dist.telemetry.run_log.keep_log import enter_stage, keep_log, note


def run_stages(run: RunFile, names: Sequence[str], key: str | None = None, *, freezing: bool = True) -> dict[str, Any]:
    """Run the named stages; each returns its figures (plain values), which are merged into the run's summary.json.

    The answer holds each stage's figures under its name, their lines under ``said`` and all ``quarantined`` together.
    A ``key`` (of idempotency) that has been answered before gets that answer again, and nothing is done. RunHeldError
    while another driver holds this run. Without ``freezing``, this run file does not become the run's own.
    """
    remove_leftovers_once()  # of killed commands, on this machine
    store = ObjectStore(run.storage)
    submission = Submission.of(run, names, key) if key else None
    with recording_final_failure(store, run.name):
        require_stages(names, patches=run.data.patches is not None)
        answer = submission.answer(store) if submission else None
        if answer is None:
            answer = _as_only_driver(run, names, store, submission, freezing)
    return answer


def _as_only_driver(
    run: RunFile, names: Sequence[str], store: ObjectStore, submission: Submission | None, freezing: bool
) -> dict[str, Any]:
    require_writable(store, run.name)
    lease = hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name)
    with lease as fence, keep_log(store, run.name, submission_id(), names):
        if submission is None:
            return _in_order(run, names, store, fence, freezing)
        answer = submission.answer(store)  # another driver may have finished it while this one waited for the lease
        if answer is None:
            submission.record(store, fence, None)
            answer = _in_order(run, names, store, fence, freezing)
            submission.record(store, fence, answer)
        return answer


def _in_order(run: RunFile, names: Sequence[str], store: ObjectStore, fence: Fence, freezing: bool) -> dict[str, Any]:
    _require_start(run, names, store)
    run, first = freeze(run, store, fence) if freezing else (run, False)
    run_summary.load(store, run.name)  # a damaged one is refused now, not after the hours of a stage
    answer: dict[str, Any] = {"run": run.name, "said": [], "quarantined": 0}
    for name in names:
        fence.require(store)
        enter_stage(name)
        try:
            run = _settle(name, run, store, fence, names) if name in COMPUTING else run
            figures = _run_stage(name, run, store, fence, names)
        except RunFileError as error:
            # Where nothing was packed, nothing was done by the run file, whenever that was frozen.
            if (first or isinstance(error, NothingPackedError)) and name == names[0]:
                thaw(run, store, fence)
            raise
        note(figures["said"])
        answer["said"] += figures.pop("said")
        answer["quarantined"] += figures.get("quarantined", 0)
        answer[name] = figures
        run_summary.merge(store, run.name, name, figures, fence)
    return answer


def _require_start(run: RunFile, names: Sequence[str], store: ObjectStore) -> None:
    """Refuse a wrong train.start_from, and a UMAP that is not installed, before the hours of other stages, and before
    they are the run's own for good."""
    if "train" in names and run.train.start_from is not None:
        from medfuncta_dist.network.start_network import check_start  # imports torch, which packing does not need

        check_start(run, store)
    if "evaluate" in names and run.evaluate.umap:
        from medfuncta_dist.evaluation.latent_map.umap_projection import require_umap

        require_umap()


def _settle(name: str, run: RunFile, store: ObjectStore, fence: Fence, names: Sequence[str]) -> RunFile:
    """What the run file leaves open, settled. LimitReachedError where the workers for that do not come in time."""
    # Imports torch, which packing does not need.
    from medfuncta_dist.run.fan_outs import compute_fan_out
    from medfuncta_dist.run.settle_arithmetic import settle_arithmetic
    from medfuncta_dist.run.settle_task_size import settle_task_size
    from medfuncta_dist.stages.preflight import check_fitting

    reached = limit_before_stage(run, store, name, names)
    run = settle_arithmetic(run, store, fence=fence, limit_reached=reached)
    if name != "fit" or not run.fit.task_size_open:
        return run
    check_fitting(run, store)  # before a worker tries it
    return settle_task_size(run, store, limited(compute_fan_out(run), reached), fence=fence)


def _run_stage(name: str, run: RunFile, store: ObjectStore, fence: Fence, names: Sequence[str]) -> dict[str, Any]:
    """``run_<name>`` in ``stages/<name>.py``, imported at its turn: packing needs no torch. ``names``: all that this
    process runs."""
    print(f"[{run.name}] {name} ...", file=sys.stderr)
    began = time.monotonic()
    stage = getattr(import_module(f"medfuncta_dist.stages.{name}_stage"), f"run_{name}")
    figures: dict[str, Any] = stage(run, store, fence, names)
    return figures | {"seconds": round(time.monotonic() - began, 3)}
