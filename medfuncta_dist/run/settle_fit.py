"""How fit tasks on a GPU run a SIREN's steps: how many scans in a block, and whether recorded. Settled with the rest of
how a run computes (``settle_arithmetic.py``)."""

from __future__ import annotations

import sys
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.fit_check import FitTrial, fit_check
from medfuncta_dist.latents.fit_memory import block_bytes
from medfuncta_dist.meta.machine.self_check import Verdict
from medfuncta_dist.network.core_settings import field_spec, fit_settings
from medfuncta_dist.run.settle_chunks import GPU_SHARE, free_on_worker
from medfuncta_dist.task_map import Done, FanOut

SHARE_WITH_GRAPH = 0.3
"""Of a task's free memory, for a block that is recorded: the graph keeps its memory, and beside it an eager block must
have room, the one that it is compared with."""


def settle_fit(run: RunFile, fan_out: FanOut) -> RunFile:
    """The run file with ``fit.block_scans`` (on a GPU) and ``fit.captured`` filled in.

    What a GPU has free, and whether recording pays, tasks on a worker find out.
    """
    spec = field_spec(run)
    on_gpu = isinstance(spec, SirenSpec) and run.gpus_per_task > 0
    if on_gpu and run.fit.block_scans is None:
        run = _with(run, block_scans=block_for(run, free_on_worker(run.gpus_per_task, fan_out)))
    if run.fit.captured is None:
        run = _with(run, captured=on_gpu and run.meta.graphs != "off" and _recording_pays(run, fan_out))
    return run


def block_for(run: RunFile, free: int) -> int:
    """As many scans as a task with so many bytes free can fit together, and as a batch has."""
    spec = field_spec(run)
    assert isinstance(spec, SirenSpec)
    apiece = block_bytes(spec, run.data.points, fit_settings(run))
    share = GPU_SHARE if run.meta.graphs == "off" else SHARE_WITH_GRAPH
    return max(1, min(run.fit.batch, int(share * free) // apiece))


def _recording_pays(run: RunFile, fan_out: FanOut) -> bool:
    spec = field_spec(run)
    assert isinstance(spec, SirenSpec)
    trial = FitTrial(spec, tuple(run.data.shape), fit_settings(run), run.cluster.threads, run.gpus_per_task)
    (outcome,) = fan_out(fit_check, [trial])
    verdict = outcome.result if isinstance(outcome, Done) else Verdict(False, False, str(outcome.error))
    if not verdict.captured:
        print(f"warning: this run fits without CUDA graphs: {verdict.reason}", file=sys.stderr)
    return bool(verdict.captured)


def _with(run: RunFile, **keys: Any) -> RunFile:
    return run.model_copy(update={"fit": run.fit.model_copy(update=keys)})
