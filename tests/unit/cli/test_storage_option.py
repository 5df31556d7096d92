"""``--storage``: a name is enough, wherever the command runs, once the cluster has deleted the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from medfuncta_dist.cli.app import app
from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.stages.chain import run_stages
from tests.api_server import ApiServer
from tests.unit.cli.calls import call, call_json, call_printed
from tests.writers import write_medmnist

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ended(tmp_path: Path, run: RunFile, server: ApiServer, capfd: Capture, local_tasks: Any) -> RunFile:
    """A run of which a job has packed, has been deleted by the cluster, and whose run file is not at hand."""
    write_medmnist(tmp_path / "scans.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    (tmp_path / "run.yaml").write_text(dump(run))
    call_printed(capfd, f"medfuncta-dist submit {tmp_path / 'run.yaml'} pack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDFUNCTA_JOB", "x-pack-1")
        run_stages(run, ["pack"])
    (tmp_path / "run.yaml").unlink()
    server.cluster.objects.pop(("rayjobs", run.kubernetes.namespace or "medfuncta", "x-pack-1"))
    return run


@pytest.mark.parametrize("name", ["x", "x-pack-1"])
def test_status_finds_a_run_and_a_job_that_only_storage_has(ended: RunFile, capfd: Capture, name: str) -> None:
    code, _ = call(capfd, "status", name)
    assert code == 1, "the cluster does not know it"
    status = call_json(capfd, "status", name, "--storage", ended.storage)
    assert (status["name"], status["state"], status["exit_code"]) == ("x-pack-1", "done", 0)


def test_the_variable_counts_as_well_and_not_for_a_run_file(
    ended: RunFile, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDFUNCTA_STORAGE", ended.storage)
    assert call_json(capfd, "status", "x")["state"] == "done"
    other = ended.model_copy(update={"name": "other", "storage": str(tmp_path / "elsewhere")})
    (tmp_path / "other.yaml").write_text(dump(other))
    status = call_json(capfd, "status", str(tmp_path / "other.yaml"))
    assert (status["name"], status["place"]) == ("other", "nowhere")


def test_resume_and_cancel_and_what_status_says_to_do(ended: RunFile, server: ApiServer, capfd: Capture) -> None:
    named = ("--storage", ended.storage)
    assert call_json(capfd, "resume", "x", *named, "--set", "cluster.workers=3")["job"] == "x-pack-2"
    sent = server.cluster.get("rayjobs", ended.kubernetes.namespace or "medfuncta", "x-pack-2")
    assert "workers: 3" in str(sent)
    assert call_json(capfd, "cancel", "x", *named)["name"] == "x-pack-2"
    status = call_json(capfd, "status", "x-pack-2", *named)
    assert (status["state"], status["command"]) == (
        "cancelled",
        f"medfuncta-dist resume x-pack-2 --storage {ended.storage}",
    )
    assert call_printed(capfd, status["command"]) == ["x-pack-3: submitted"]


def test_a_list_of_the_storage_has_what_the_cluster_deleted_and_local_runs(
    ended: RunFile, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_json(capfd, "resume", "x", "--storage", ended.storage)
    run_stages(
        ended.model_copy(update={"name": "here", "data": ended.data.model_copy(update={"dataset": "x"})}), ["pack"]
    )
    assert [job["name"] for job in call_json(capfd, "list")["jobs"]] == ["x-pack-2"]
    found = {job["name"]: job for job in call_json(capfd, "list", "--storage", ended.storage)["jobs"]}
    assert {name: job["state"] for name, job in found.items()} == {
        "x-pack-1": "done",
        "x-pack-2": "queued",
        "here": "done",
    }
    assert (found["x-pack-1"]["run"], found["x-pack-1"]["stages"], found["x-pack-1"]["attempt"]) == ("x", ["pack"], 1)
    assert found["here"]["age_s"] < 600
    one = call_json(capfd, "list", "--storage", ended.storage, "--run", "here")["jobs"]
    assert [job["name"] for job in one] == ["here"]
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    alone = {job["name"]: job["state"] for job in call_json(capfd, "list", "--storage", ended.storage)["jobs"]}
    assert alone == {"x-pack-1": "done", "x-pack-2": "lost", "here": "done"}


@pytest.mark.parametrize("by_variable", [True, False])
def test_a_job_that_only_the_cluster_knows_is_reached(
    run: RunFile,
    by_variable: bool,
    server: ApiServer,
    capfd: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that waits has left no run file in storage."""
    write_medmnist(tmp_path / "scans.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    (tmp_path / "run.yaml").write_text(dump(run))
    call_printed(capfd, f"medfuncta-dist submit {tmp_path / 'run.yaml'} pack")
    named = () if by_variable else ("--storage", run.storage)
    if by_variable:
        monkeypatch.setenv("MEDFUNCTA_STORAGE", run.storage)
    assert call_json(capfd, "status", "x", *named)["name"] == "x-pack-1"
    assert call_json(capfd, "status", "x-pack-1", *named)["state"] == "queued"
    assert call_json(capfd, "resume", "x", *named)["job"] == "x-pack-1"
    assert call_json(capfd, "cancel", "x-pack-1", *named)["name"] == "x-pack-1"


def test_a_run_file_of_any_name_is_its_own_default(
    ended: RunFile, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.txt"
    path.write_text(dump(ended).replace("name: x\n", "name: other\n"))
    monkeypatch.setenv("MEDFUNCTA_STORAGE", str(tmp_path / "elsewhere"))
    assert call_json(capfd, "status", str(path))["name"] == "other"


def test_a_name_that_the_storage_lacks_is_refused(ended: RunFile, capfd: Capture) -> None:
    answer = call_json(capfd, "resume", "y", "--storage", ended.storage)
    assert (answer["exit_code"], answer["error"]["kind"]) == (1, "JobMissingError")
    assert "run file" in answer["error"]["what"]


def test_every_command_on_a_named_job_takes_it() -> None:
    commands = vars(get_command(app))["commands"]
    named = {name for name, found in commands.items() if any("NAME" in str(p.metavar) for p in found.params)}
    assert named == {"status", "logs", "cancel", "resume"}
    for name in (*named, "list"):
        assert "--storage" in {option for parameter in commands[name].params for option in parameter.opts}, name
