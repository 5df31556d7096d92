"""What a stage's driver says that it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medfuncta_dist.run.stage_progress import recorded
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.status.run_cost import count_gpus
from tests.unit.stages.test_refusals import run_file


@pytest.mark.parametrize(("beside", "held"), [(("pack",), 0.0), (("pack", "train"), 2.0)])
def test_packing_holds_the_gpus_of_the_job_that_it_is_part_of(
    beside: tuple[str, ...],
    held: float,
    archive: Path,
) -> None:
    run = run_file(archive, cluster__workers=2, cluster__gpus_per_worker=1)
    assert count_gpus(run, beside) == held
    store = ObjectStore(run.storage)
    with recorded(run, store, "pack", "sources", None, beside) as told:
        began = told.recorder.progress.updated
        told.recorder._clock = lambda: began + 3600.0
    assert json.loads(store.read("runs/refused/progress/pack.json"))["gpu_s"] == 3600.0 * held


def test_a_stage_is_told_what_it_shares_its_cluster_with(
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from medfuncta_dist.stages import pack_stage, train_stage

    seen: list[tuple[str, ...]] = []
    packed = pack_stage.run_pack
    monkeypatch.setattr(pack_stage, "run_pack", lambda *given: seen.append(tuple(given[3])) or packed(*given))
    monkeypatch.setattr(train_stage, "run_train", lambda *given: {"said": []})
    run_stages(run_file(archive), ["pack", "train"])
    assert seen == [("pack", "train")]
