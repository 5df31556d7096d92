"""Submission without Kubernetes, whole: what a rendered RayJob says is run by Ray's Jobs API on a cluster of three
nodes with dashboard and token, and followed, interrupted, cancelled and resumed with the commands that people have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import read_events
from medfuncta_dist.telemetry.metric_catalogue import METRICS
from medfuncta_dist.telemetry.progress_record import StageProgress, read_progress
from tests.integration.commands import COMMAND, Ended
from tests.integration.training_runs import packed, run_file
from tests.ray_nodes import RayNodes

pytestmark = pytest.mark.timeout(900)

NAME = "long"
PATIENCE_S = 180.0


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    with RayNodes() as cluster:
        yield cluster


@pytest.fixture
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains until it is stopped, on a packed data set, in a local folder."""
    folder = tmp_path_factory.mktemp("submission")
    packed(str(folder / "storage"), folder)
    run = run_file(str(folder / "storage"), NAME, steps=1_000_000, checkpoint_steps=20)
    whole = run.model_dump(mode="json")
    whole["data"] |= {"source": str(folder / "scans.npz"), "reader": None, "shard_scans": 16}
    whole["telemetry"]["log_steps"] = 10
    whole["cluster"] |= {"cache": str(folder / "cache"), "lease_seconds": 5.0}
    path = folder / "long.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def medfuncta(nodes: RayNodes, *arguments: str, **environment: str) -> Ended:
    """A command, as a person at a shell of this cluster gives it."""
    process = start(nodes, *arguments, **environment)
    out, err = process.communicate(timeout=PATIENCE_S)
    return Ended(process.returncode, json.loads(out.splitlines()[-1]), err)


def over_ray(nodes: RayNodes, call: str, argument: object) -> None:
    """A call of our client of Ray's Jobs API, in a process of its own: Ray reads its token once a process, and this one
    may have been on another cluster before."""
    script = "import json, sys\nfrom medfuncta_dist.submit.backends.ray_jobs import RayJobs\n"
    script += f"jobs, argument = RayJobs(), json.loads(sys.argv[1])\n{call}"
    clean = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", script, json.dumps(argument)]
    subprocess.run(command, env=clean | nodes.environment, check=True, timeout=PATIENCE_S)


def start(nodes: RayNodes, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [COMMAND, *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean | nodes.environment | environment,
    )


def eventually(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}")


def progress(store: ObjectStore) -> StageProgress | None:
    return read_progress(store, NAME, "train")


def going_on(store: ObjectStore, attempts: int) -> list[dict[str, Any]]:
    """All events, as soon as this many attempts have begun and the last has committed a checkpoint of its own."""
    events = [line for line in read_events(store, NAME) if line["kind"] == "event"]
    begun = [number for number, event in enumerate(events) if event["name"] == "started"]
    if len(begun) < attempts:
        return []
    return events if any(event["name"] == "checkpoint" for event in events[begun[attempts - 1] :]) else []


def starts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["fields"] for event in events if event["name"] == "started"]


@pytest.mark.parametrize("losses", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["in peace", "with losses"])
def test_a_job_is_followed_through_the_loss_of_a_node_and_of_the_cluster_cancelled_and_resumed(
    nodes: RayNodes, run_yaml: Path, losses: bool
) -> None:
    store = ObjectStore(str(run_yaml.parent / "storage"))
    nodes.up(2 if losses else 1)

    # Who has no token, or a wrong one, gets nothing, and is told why.
    assert nodes.status_of("/api/jobs/", None) == 401
    assert nodes.status_of("/api/jobs/", "wrong") in (401, 403)
    refused = medfuncta(nodes, "list", RAY_AUTH_TOKEN="0" * 64)
    assert refused.code == 1
    assert "token" in refused.answer["error"]["what"]

    # What is sent is what a dry run shows.
    shown = medfuncta(nodes, "submit", str(run_yaml), "train", "--dry-run").answer["manifests"]
    sent = medfuncta(nodes, "submit", str(run_yaml), "train")
    assert sent.code == 0, sent.stderr
    assert (sent.answer["job"], sent.answer["new"]) == ("long-train-1", True)
    details = nodes.read("/api/jobs/long-train-1")
    assert details["entrypoint"] == shown[0]["entrypoint"] == "medfuncta-dist run env:MEDFUNCTA_RUN_FILE train --json"
    assert details["runtime_env"]["env_vars"] == shown[0]["runtime_env"]["env_vars"]
    assert shown[0]["metadata"].items() <= details["metadata"].items()

    # It trains; the same request again is the same job; its lines can be followed.
    logs = start(nodes, "logs", "long-train-1", "--follow")
    eventually(lambda: going_on(store, 1), "a checkpoint")
    again = medfuncta(nodes, "submit", str(run_yaml), "train").answer
    assert (again["job"], again["new"]) == ("long-train-1", False)
    status = eventually(lambda: running(nodes, str(run_yaml)), "steps in the status")
    assert (status["stage"], status["unit"], status["total"]) == ("train", "steps", 1_000_000)
    assert status["eta_s"] > 0

    # Prometheus finds its metrics, all of them documented.
    wanted = {
        f"ray_medfuncta_train_{name}" for name in ("step", "scans_per_s", "checkpoint_time", "starts", "data_wait")
    }
    exported = eventually(lambda: wanted <= (names := nodes.metrics()) and names, "metrics")
    assert exported <= {metric.prometheus for metric in METRICS}

    attempts = lose_a_node_and_the_cluster(nodes, run_yaml, shown[0], logs) if losses else 1

    # Cancelled, it saves first; resumed, it goes on from there as a new attempt.
    cancelled = medfuncta(nodes, "cancel", "long-train-1")
    assert (cancelled.code, cancelled.answer["state"], cancelled.answer["hard"]) == (0, "cancelled", False)
    assert "resume" in cancelled.answer["next"]
    if not losses:  # with them, it ended with its cluster
        require_first_line(logs)
    saved = max(e["fields"]["step"] for e in going_on(store, attempts) if e["name"] == "checkpoint")
    resumed = medfuncta(nodes, "resume", NAME)
    assert (resumed.answer["job"], resumed.answer["new"]) == ("long-train-2", True)
    events = eventually(lambda: going_on(store, attempts + 1), "a checkpoint of the resumed job")
    assert starts(events)[attempts]["step"] == saved
    listed = medfuncta(nodes, "list", "--run", NAME, "--state", "running").answer["jobs"]
    assert [job["name"] for job in listed] == ["long-train-2"]
    over_ray(nodes, "jobs.cancel(argument)", "long-train-2")


def lose_a_node_and_the_cluster(
    nodes: RayNodes, run_yaml: Path, shown: dict[str, Any], logs: subprocess.Popen[str]
) -> int:
    """Under a job that trains; how many attempts have begun then."""
    store = ObjectStore(str(run_yaml.parent / "storage"))

    # A node is lost: the workers start again, from a checkpoint, on the one that is left.
    nodes.lose_node_of(starts(going_on(store, 1))[0]["pids"][0])
    events = eventually(lambda: going_on(store, 2), "a checkpoint after the node was lost")
    assert starts(events)[1]["step"] > 0
    assert medfuncta(nodes, "status", str(run_yaml)).answer["restarts"] >= 1

    # The whole cluster is taken away, and comes back with the same manifest, as Kueue does it: the same run goes on.
    nodes.down()
    require_first_line(logs)
    nodes.up(1)
    gone = medfuncta(nodes, "status", str(run_yaml)).answer
    assert gone["step"] > 0
    assert gone["state"] in ("lost", "running")  # running: its driver spoke just now, and storage cannot know better
    over_ray(nodes, "jobs.submit(argument).name", {"metadata": _metadata(shown), "spec": _spec(shown)})
    events = eventually(lambda: going_on(store, 3), "a checkpoint on the new cluster")
    assert starts(events)[2]["step"] > starts(events)[1]["step"]
    assert nodes.read("/api/jobs/long-train-1")["status"] == "RUNNING"
    return 3


def require_first_line(logs: subprocess.Popen[str]) -> None:
    """Whoever follows a job's lines has had the first, once there are no more to come."""
    out, _ = logs.communicate(timeout=PATIENCE_S)
    lines = [json.loads(line) for line in out.splitlines()]
    assert any("from step 0" in line.get("text", "") for line in lines)


def running(nodes: RayNodes, run: str) -> dict[str, Any] | None:
    now = medfuncta(nodes, "status", run).answer
    return now if now["state"] == "running" and now["eta_s"] is not None else None


def _metadata(sent: dict[str, Any]) -> dict[str, Any]:
    return {"name": sent["submission_id"], "labels": sent["metadata"]}


def _spec(sent: dict[str, Any]) -> dict[str, Any]:
    return {"entrypoint": sent["entrypoint"], "runtimeEnvYAML": yaml.safe_dump(sent["runtime_env"])}
