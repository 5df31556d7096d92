"""What needs one latent per scan refuses scans that are grids of patches, before it reads anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import require_stages
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.fitted_table import open_fitted
from medfuncta_dist.exchange.export_latents import export_latents
from medfuncta_dist.neighbours.duplicates_report import near_duplicates
from medfuncta_dist.neighbours.index_driver import make_index
from medfuncta_dist.neighbours.neighbour_search import Neighbours
from medfuncta_dist.prior.prior_latents import find_source
from medfuncta_dist.probe.probe_driver import probe_run
from medfuncta_dist.publication.checked_table import CheckedTable
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.submit_jobs import SubmissionRequest
from medfuncta_dist.task_map import map_here


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    data = {"source": str(tmp_path), "patches": {"size": [8, 8, 8]}}
    return RunFile.model_validate({"name": "r", "storage": str(tmp_path / "store"), "data": data})


def test_stages_after_the_fit_are_refused_before_anything_is_done(run):
    require_stages(["pack", "train", "fit"], patches=True)
    require_stages(["evaluate", "prior"])
    with pytest.raises(RunFileError, match="the stage evaluate needs one latent per scan") as found:
        require_stages(["pack", "train", "fit", "evaluate"], patches=True)
    assert found.value.where == "data.patches"
    with pytest.raises(RunFileError, match="the stage evaluate"):
        SubmissionRequest(run, ("fit", "evaluate"))


OPENED: dict[str, Callable[[RunFile, Path], Any]] = {
    "evaluating or comparing": lambda run, _: open_fitted(run),
    "a prior": lambda run, _: find_source(run, ObjectStore(run.storage)),
    "export-latents": export_latents,
    "an index of neighbours": lambda run, _: make_index(run, "plain", map_here),
    "a search for neighbours": lambda run, _: Neighbours.open(run),
    "a search for duplicates": lambda run, _: near_duplicates(run, "plain", map_here),
    "a probe": lambda run, _: probe_run(run),
    "publishing": lambda run, _: CheckedTable.open(run),
}


@pytest.mark.parametrize("what", OPENED)
def test_they_are_refused_by_name_with_the_way_out(run, tmp_path: Path, what: str):
    with pytest.raises(RunFileError, match=f"{what} needs one latent per scan") as found:
        OPENED[what](run, tmp_path / "out")
    assert "a run without patches" in found.value.do
