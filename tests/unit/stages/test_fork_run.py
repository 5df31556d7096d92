"""The run file of a run that starts from another: what it says, that it is ready to train, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from medfuncta_dist.config.load import dump, load
from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.network.core_settings import new_learner
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.stages.fork_run import fork_run
from medfuncta_dist.stages.readiness import require_ready
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.writers import write_medmnist

FILE = """\
name: first
storage: {folder}/store
preset: siren-2d
data:
  source: {folder}/images.npz
  shape: [8, 8]
  private: {folder}/private
field: {{layers: 3, hidden: 4, latent: 2}}
train: {{batch: 4, steps: 6, schedule_steps: 6}}
"""


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run with packed scans and a network; begun with another seed than its run file's."""
    monkeypatch.chdir(tmp_path)
    write_medmnist(tmp_path / "images.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    file = tmp_path / "first.yaml"
    file.write_text(FILE.format(folder=tmp_path))
    run = load(file, ["train.seed=7"])
    pack(run, map_here, lambda _: None)
    ObjectStore(run.storage).write("runs/first/run.yaml", dump(run).encode())
    return str(file)


def train(path: str) -> str:
    run = load(path, ["train.seed=7"])
    store, learner = ObjectStore(run.storage), new_learner(run)
    trained = learner.trained(learner.params(), [torch.zeros(0)])
    return commit_network(store, run, load_snapshot(store, "first", None), trained, None, None, ALONE).digest


def test_the_new_run_file_is_the_old_one_with_another_name_and_a_start(first: str) -> None:
    digest = train(first)
    answer = fork_run(first, "second", ["train.steps=3", "train.rate=1e-3"], "second.yaml")
    given = yaml.safe_load(Path("second.yaml").read_text())
    assert given["name"] == "second"
    assert given["preset"] == "siren-2d"
    assert given["data"]["dataset"] == "first"
    assert given["train"] == {"batch": 4, "steps": 3, "start_from": "first", "seed": 7, "rate": 1e-3}
    assert given["field"] == yaml.safe_load(Path(first).read_text())["field"]
    assert (answer["network"], answer["dataset"], answer["run_file"]) == (digest, "first", "second.yaml")
    assert "next, here: medfuncta-dist run second.yaml train fit evaluate" in answer["said"]
    run = load("second.yaml")
    require_ready(run, ObjectStore(run.storage), ["train", "fit", "evaluate"])


def test_a_fork_of_a_fork_starts_from_the_fork(first: str) -> None:
    train(first)
    fork_run(first, "second", [], "second.yaml")
    train("second.yaml")
    fork_run("second.yaml", "third", ["train.schedule_steps=9"], "third.yaml")
    third = load("third.yaml")
    assert (third.train.start_from, third.dataset, third.train.schedule_steps) == ("second", "first", 9)


def test_a_fork_does_not_start_where_the_former_run_started(first: str) -> None:
    """Whatever way the former run file names the start in: as the name of a run, or as a relative folder."""
    train(first)
    fork_run(first, "second", [], "second.yaml")
    file = Path("second.yaml")
    file.write_text(file.read_text().replace("start_from: first", "start_from: ./store/runs/first"))
    train("second.yaml")
    answer = fork_run("second.yaml", "third", [], "third.yaml")
    assert load("third.yaml").train.start_from == answer["started_from"] == "second"
    assert "third starts from the network of second," in answer["said"][1]
    assert Path("third.yaml").read_text().startswith("# Written by `medfuncta-dist fork`: starts from second.\n")


@pytest.mark.parametrize("override", ["train.start_from=first", "train={start_from: first}"])
def test_a_start_that_is_asked_for_is_taken_and_said(first: str, override: str) -> None:
    train(first)
    fork_run(first, "second", [], "second.yaml")
    train("second.yaml")
    answer = fork_run("second.yaml", "third", [override], "third.yaml")
    assert load("third.yaml").train.start_from == answer["started_from"] == "first"
    assert "third starts from the network of first," in answer["said"][1]
    assert Path("third.yaml").read_text().startswith("# Written by `medfuncta-dist fork`: starts from first.\n")


def test_what_cannot_start_is_refused_and_no_file_written(first: str) -> None:
    with pytest.raises(StageOrderError, match=r"train\.start_from is first"):
        fork_run(first, "second", [], "second.yaml")
    train(first)
    for changes, said in (
        (["field.hidden=6"], r"field\.hidden is 6, the network's 4"),
        (["train.batch=9"], r"train\.batch is 9"),
        (["data.shape=[16, 16]"], r"data\.shape is \[16, 16\]"),
        (["train.nothing=1"], "there is no such key"),
    ):
        with pytest.raises(RunFileError, match=said):
            fork_run(first, "second", changes, "second.yaml")
    with pytest.raises(RunFileError, match="name = 'Second'"):
        fork_run(first, "Second", [], "second.yaml")
    with pytest.raises(RunFileError, match="there is a run first already"):
        fork_run(first, "first", [], "second.yaml")
    assert not Path("second.yaml").exists()


def test_a_file_is_not_replaced(first: str) -> None:
    train(first)
    Path("second.yaml").write_text("mine")
    with pytest.raises(RunFileError, match="there is a file already"):
        fork_run(first, "second", [], "second.yaml")
    assert Path("second.yaml").read_text() == "mine"
