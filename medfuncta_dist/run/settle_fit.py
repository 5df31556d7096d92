"""How fit tasks on a GPU run a SIREN's steps: how many scans in a block, and whether recorded. Settled with the rest of
how a run computes (``settle_arithmetic.py``)."""

from __future__ import annotations

import sys
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.fit_check import FitTrial, fit_check
from medfuncta_dist.meta.machine.self_check import Verdict
from medfuncta_dist.network.core_settings import field_spec, fit_settings
from medfuncta_dist.task_map import Done, FanOut


def settle_fit(run: RunFile, fan_out: FanOut) -> RunFile:
    """The run file with ``fit.captured`` filled in; a task on a worker tries whether recording pays."""
    if run.fit.captured is not None:
        return run
    spec = field_spec(run)
    if not isinstance(spec, SirenSpec) or not run.gpus_per_task or run.meta.graphs == "off":
        return _with(run, captured=False)
    trial = FitTrial(spec, tuple(run.data.shape), fit_settings(run), run.cluster.threads, run.gpus_per_task)
    (outcome,) = fan_out(fit_check, [trial])
    verdict = outcome.result if isinstance(outcome, Done) else Verdict(False, False, str(outcome.error))
    if not verdict.captured:
        print(f"warning: this run fits without CUDA graphs: {verdict.reason}", file=sys.stderr)
    return _with(run, captured=verdict.captured)


def _with(run: RunFile, **keys: Any) -> RunFile:
    return run.model_copy(update={"fit": run.fit.model_copy(update=keys)})
