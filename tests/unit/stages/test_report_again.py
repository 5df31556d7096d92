from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import RunFileError, RunHeldError, StageOrderError
from medfuncta_dist.evaluation.latent_map import umap_projection
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.stages.report_again import report_command
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import ready, run_file


def test_it_is_refused_while_a_stage_is_at_work_and_before_the_run_is_evaluated(tmp_path: Path):
    run = ready(tmp_path)
    fit(run, map_here)
    store = ObjectStore(run.storage)
    with hold_lease(store, run_lease(run.name), 2, "other"), pytest.raises(RunHeldError):
        report_command(run)
    with pytest.raises(StageOrderError, match="not been evaluated"):
        report_command(run)
    assert not store.exists(f"runs/{run.name}/report/report.html")


def test_umap_that_is_not_installed_is_refused_before_the_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(umap_projection, "find_spec", lambda name: None)
    run = run_file(tmp_path, evaluate={"umap": True})
    with pytest.raises(RunFileError) as refused:
        run_stages(run, ["pack", "train", "fit", "evaluate"])
    assert refused.value.where == "evaluate.umap"
    assert not ObjectStore(run.storage).exists(f"runs/{run.name}/run.yaml")
