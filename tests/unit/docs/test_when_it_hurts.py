"""docs/how-to/when-it-hurts.md: each symptom is brought about, its command run, and its output compared."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.status.job_records import create_job_record
from medfuncta_dist.submit.submit_jobs import SubmissionRequest, make_submission_record, render_manifests
from medfuncta_dist.telemetry.progress_record import ProgressRecorder
from medfuncta_dist.telemetry.progress_report import ProgressReport
from tests.api_server import ApiServer
from tests.unit.cli.calls import call
from tests.unit.docs.pages import OURS, ROOT, Block, blocks, commands, parse

PAGE = ROOT / "docs/how-to/when-it-hurts.md"
RUN, JOB = "chest-xray-64", "chest-xray-64-train-1"
CLUSTER = f"{JOB}-abcde"
QUEUE = {"kueue.x-k8s.io/queue-name": "medfuncta"}


@dataclass(frozen=True)
class Scene:
    """A cluster, and a run file in the working folder."""

    server: ApiServer
    run: RunFile

    def submit(self, state: str = "Initializing", **status: Any) -> None:
        """A training job, as ``submit`` leaves it, that KubeRay has made a cluster for."""
        jobs, request = KubernetesJobs(), SubmissionRequest(self.run, ("train",))
        (manifest,) = render_manifests(request, [], jobs)
        record = make_submission_record(request, ("train",), [], jobs)
        assert create_job_record(ConditionalStore.probe(ObjectStore(self.run.storage)), RUN, record)
        jobs.submit(manifest)
        self.server.set_status(JOB, jobDeploymentStatus=state, rayClusterName=CLUSTER, **status)
        self.server.put("rayclusters", CLUSTER, owner=self.get_job())

    def get_job(self) -> dict[str, Any]:
        return self.server.cluster.get("rayjobs", "medfuncta", JOB)

    def add_pod(self, group: str, phase: str = "Pending", **status: Any) -> str:
        """A pod of the cluster, not ready: of the head, or of the group gpu."""
        name = f"{CLUSTER}-{group}" if group == "head" else f"{CLUSTER}-{group}-worker-q1w2e"
        labels = {"ray.io/cluster": CLUSTER, "ray.io/node-type": group if group == "head" else "worker"}
        labels["ray.io/group"] = "headgroup" if group == "head" else group
        limits = {"resources": {"limits": {"memory": "16Gi"}}}
        spec = {"containers": [{"name": "ray-head", **limits}, {"name": "ray-worker", **limits}]}
        self.server.put("pods", name, labels=labels, spec=spec, status={"phase": phase, **status})
        return name

    def queue(self, message: str) -> None:
        """A job that Kueue holds back, with its Workload."""
        self.submit("Suspended")
        self.server.cluster.patch(
            "rayjobs", "medfuncta", JOB, {"spec": {"suspend": True}, "metadata": {"labels": QUEUE}}
        )
        condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
        labels = {"kueue.x-k8s.io/job-uid": self.get_job()["metadata"]["uid"]}
        status = {"conditions": [condition]}
        spec = {"queueName": "medfuncta"}
        self.server.put("workloads", "rayjob-1a2b3", owner=self.get_job(), labels=labels, spec=spec, status=status)


def unschedulable(text: str) -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}]}


def container(name: str, **state: Any) -> dict[str, Any]:
    image = "my-registry.example/medfuncta-dist:0.1.0"
    return {"containerStatuses": [{"name": name, "image": image, "state": state}]}


def wait_for_quota(scene: Scene) -> None:
    needed = "insufficient unused quota for nvidia.com/gpu in flavor medfuncta-gpu, 8 more needed"
    scene.queue(f"couldn't assign flavors to pod set gpu: {needed}")


def ask_for_too_much(scene: Scene) -> None:
    none = "insufficient quota for nvidia.com/gpu in flavor medfuncta-cpu, request > maximum capacity (64 > 0)"
    few = "insufficient quota for nvidia.com/gpu in flavor medfuncta-gpu, request > maximum capacity (64 > 32)"
    scene.queue(f"couldn't assign flavors to pod set gpu: {none}, {few}")


def lack_a_queue(scene: Scene) -> None:
    scene.queue("LocalQueue medfuncta doesn't exist")


def lack_gpus(scene: Scene) -> None:
    scene.submit()
    few, taint = "3 Insufficient nvidia.com/gpu", "1 node(s) had untolerated taint {dedicated: infra}"
    scene.add_pod("gpu", **unschedulable(f"0/4 nodes are available: {taint}, {few}. preemption: not helpful."))


def lack_the_image(scene: Scene) -> None:
    scene.submit()
    image = "my-registry.example/medfuncta-dist:0.1.0"
    state = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
    pod = scene.add_pod("head", **container("ray-head", waiting=state))
    scene.server.warn(pod, "Failed", f'Failed to pull image "{image}": unauthorized: authentication required')


def lack_a_secret(scene: Scene) -> None:
    scene.submit()
    state = {"reason": "CreateContainerConfigError", "message": 'secret "s3-keys" not found'}
    scene.add_pod("head", **container("ray-head", waiting=state))


def exceed_the_quota(scene: Scene) -> None:
    scene.submit()
    over = "requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0"
    text = f'Failed to create worker Pod medfuncta/x, pods "x" is forbidden: exceeded quota: medfuncta, {over}'
    scene.server.warn(CLUSTER, "FailedToCreateWorkerPod", text)


def run_out_of_memory(scene: Scene) -> None:
    scene.submit("Failed", reason="JobStatusCheckTimeoutExceeded")
    state = {"reason": "OOMKilled", "exitCode": 137}
    scene.add_pod("head", "Failed", **container("ray-head", terminated=state))


def fill_the_disk(scene: Scene) -> None:
    scene.submit("Running", jobStatus="RUNNING")
    text = "The node was low on resource: ephemeral-storage. Threshold quantity: 5Gi, available: 4Gi."
    scene.add_pod("gpu", "Failed", reason="Evicted", message=text)


def delete_the_job(scene: Scene) -> None:
    scene.submit()
    scene.server.cluster.delete("rayjobs", "medfuncta", JOB, "Background")


def forbid_events(scene: Scene) -> None:
    lack_a_secret(scene)
    scene.server.forbidden |= {("GET", "events"), ("GET", "workloads")}


def interrupt_a_command(scene: Scene) -> None:
    with suppress(KeyboardInterrupt), ProgressRecorder(ObjectStore(scene.run.storage), RUN, "train") as recorder:
        recorder.record(ProgressReport("train", 80, 200))
        raise KeyboardInterrupt


def start_nothing(scene: Scene) -> None:
    """A run file, and no more."""


SCENES: dict[str, Callable[[Scene], None]] = {
    "It waits in the queue": wait_for_quota,
    "It asks for more than the queue has": ask_for_too_much,
    "The queue does not exist": lack_a_queue,
    "No node takes its pods": lack_gpus,
    "The image cannot be pulled": lack_the_image,
    "A Secret is missing": lack_a_secret,
    "The namespace's quota refuses its pods": exceed_the_quota,
    "It was killed for its memory": run_out_of_memory,
    "A node's disk was full": fill_the_disk,
    "The cluster has deleted the job": delete_the_job,
    "A command on this machine was interrupted": interrupt_a_command,
    "Nothing was started": start_nothing,
    "Something could not be read": forbid_events,
}
"""By the heading under which the page shows it."""


def sections() -> dict[str, list[Block]]:
    """The blocks below each heading."""
    lines = PAGE.read_text().splitlines()
    found: dict[str, list[Block]] = {}
    for block in blocks(PAGE):
        heading = next(line for line in reversed(lines[: block.line]) if line.startswith("#"))
        found.setdefault(heading.lstrip("# "), []).append(block)
    return found


@pytest.fixture
def scene(server: ApiServer, run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    named = run.model_copy(update={"name": RUN})
    (tmp_path / "run.yaml").write_text(dump(named))
    monkeypatch.chdir(tmp_path)
    return Scene(server, named)


def test_every_block_belongs_to_a_symptom_that_is_tried() -> None:
    assert set(sections()) == set(SCENES)


@pytest.mark.parametrize("heading", SCENES)
def test_the_page_shows_what_the_command_prints(heading: str, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    SCENES[heading](scene)
    shell, shown = sections()[heading]
    (words,) = commands(shell)
    assert words[0] == OURS
    assert call(capfd, *words[1:]) == (0, shown.text)


def test_each_command_that_the_page_shows_as_next_can_be_run() -> None:
    """Those that are ours parse; ``tests/unit/cli/test_next_command.py`` runs one of each kind."""
    told = [line for line in PAGE.read_text().splitlines() if line.startswith("  next: ")]
    last = [re.split("; then |; after the change: |next: ", line)[-1] for line in told]
    ours = [part for text in last for part in text.split(" && ")]
    found = [shlex.split(part)[1:] for part in ours if part.startswith(OURS)]
    assert len(found) > 5
    for words in found:
        parse(tuple(words))
