"""A run gets more steps, and another starts from it: the commands of docs/operations.md, on a small run."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.load import load
from medfuncta_dist.errors import RunChangedError, StageOrderError
from medfuncta_dist.network.committed_network import committed_network
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.object_store import ObjectStore
from tests import writers
from tests.integration.commands import command
from tests.integration.test_pipeline import write_run

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]


def test_a_run_goes_on_with_more_steps_and_another_starts_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writers.write_medmnist(tmp_path / "images.npz", shape=(8, 8), counts={"train": 12, "val": 4, "test": 4})
    data = {"source": str(tmp_path / "images.npz"), "shape": [8, 8]}
    path = write_run(tmp_path, "first", str(tmp_path / "store"), data, "siren", train={"schedule_steps": 9})
    run_stages(load(path), ["pack", "train", "fit"])
    store = ObjectStore(str(tmp_path / "store"))

    with pytest.raises(StageOrderError, match=r"6 of 9 outer steps \(train\.steps\)"):
        run_stages(load(path, ["train.steps=9"]), ["fit"])
    more = run_stages(load(path, ["train.steps=9"]), ["train", "fit"])
    assert (more["train"]["first_step"], more["train"]["steps"], more["fit"]["fitted_now"]) == (6, 9, 20)
    with pytest.raises(RunChangedError, match="step 9 is already done"):
        run_stages(load(path, ["train.steps=6"]), ["train"])

    forked = command("fork", path, "second", "--set", "train.steps=3", "--set", "train.rate=1e-4")
    assert (forked.code, forked.answer["run_file"]) == (0, "second.yaml"), forked.stderr
    second = run_stages(load("second.yaml"), ["train", "fit", "evaluate"])
    first, done = committed_network(store, "first"), committed_network(store, "second")
    assert first is not None
    assert done is not None
    assert done.started_from == second["train"]["started_from"] == forked.answer["network"] == first.digest
    assert f"started from {first.digest[:12]}" in "".join(second["said"])
    assert second["train"]["snapshot"] == more["train"]["snapshot"]
    assert [info.path.split("/")[1] for info in store.list("datasets") if info.path.endswith("dataset.json")] == [
        "first"
    ]
