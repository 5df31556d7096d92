"""Rules of Kueue's webhooks for a RayJob in a queue. (pkg/controller/jobs/rayjob, raycluster)"""

from __future__ import annotations

import re

from medfuncta_dist.submit.manifest.job_names import MAX_TIME_LABEL
from medfuncta_dist.submit.rules.manifest_view import QUEUE_LABEL, RayJob, as_mapping
from medfuncta_dist.submit.rules.rule import Breaches, RuleBook

RULES = RuleBook()
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
LARGEST_SECONDS = 2**31 - 1
"""Of 32 bits. Kueue ignores a label that it cannot read."""
MAX_GROUPS = 17
"""A workload has at most 18 sets of pods, of which the head is one."""
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@RULES.rule("kueue-queue-name", "set kubernetes.queue to the name of a LocalQueue in the namespace")
def _check_queue(job: RayJob) -> Breaches:
    if job.queue is not None and not DNS_LABEL.fullmatch(str(job.queue)):
        yield f"metadata.labels[{QUEUE_LABEL}]", f"{job.queue!r} is not a valid name of a queue"


@RULES.rule("kueue-priority", "set kubernetes.queue too, or leave kubernetes.priority out")
def _check_priority(job: RayJob) -> Breaches:
    if PRIORITY_LABEL in job.labels and job.queue is None:
        yield f"metadata.labels[{PRIORITY_LABEL}]", "a priority has no effect without a queue"


@RULES.rule("kueue-max-time", "leave the label out: kubernetes.max_hours, max_cost and queue set it")
def _check_max_time(job: RayJob) -> Breaches:
    given = job.labels.get(MAX_TIME_LABEL)
    if given is None:
        return
    if job.queue is None:
        yield f"metadata.labels[{MAX_TIME_LABEL}]", "a time limit of Kueue's has no effect without a queue"
    if not re.fullmatch(r"[1-9]\d{0,9}", str(given)) or int(given) > LARGEST_SECONDS:
        yield f"metadata.labels[{MAX_TIME_LABEL}]", f"{given!r} is not a number of seconds that Kueue reads"


@RULES.rule("kueue-shutdown", "set shutdownAfterJobFinishes to true")
def _check_shutdown(job: RayJob) -> Breaches:
    if job.queue is not None and not job.removes_cluster:
        yield "spec.shutdownAfterJobFinishes", "a queued job that keeps its cluster would hold its quota forever"


@RULES.rule("kueue-own-cluster", "leave clusterSelector out")
def _check_own_cluster(job: RayJob) -> Breaches:
    if job.queue is not None and job.uses_existing_cluster:
        yield "spec.clusterSelector", "a queued job cannot use an existing cluster"


@RULES.rule("kueue-suspend", "leave suspend out")
def _check_suspend(job: RayJob) -> Breaches:
    if job.queue is not None and "suspend" in job.spec:
        yield "spec.suspend", "in a queue, only Kueue sets this field"


@RULES.rule("kueue-no-autoscaling", "leave enableInTreeAutoscaling out: a queue admits all pods at once")
def _check_autoscaling(job: RayJob) -> Breaches:
    if job.queue is not None and job.autoscaling:
        yield "spec.rayClusterSpec.enableInTreeAutoscaling", "a queued job cannot add workers"


@RULES.rule("kueue-groups", f"use at most {MAX_GROUPS} worker groups")
def _check_groups(job: RayJob) -> Breaches:
    if job.queue is not None and len(job.worker_groups) > MAX_GROUPS:
        yield (
            "spec.rayClusterSpec.workerGroupSpecs",
            f"{len(job.worker_groups)} groups; Kueue allows {MAX_GROUPS}",
        )


@RULES.rule("kueue-group-name", "rename the group")
def _check_group_name(job: RayJob) -> Breaches:
    if job.queue is not None and any(group.get("groupName") == "head" for group in job.worker_groups):
        yield "spec.rayClusterSpec.workerGroupSpecs[head]", "Kueue uses this name for the head"


@RULES.rule("kueue-requests", "set the container's resources: Kueue counts requests against the quota")
def _check_requests(job: RayJob) -> Breaches:
    for where, container in job.ray_containers() if job.queue is not None else ():
        requests = as_mapping(as_mapping(container.get("resources")).get("requests"))
        missing = [name for name in ("cpu", "memory") if name not in requests]
        if missing:
            yield (
                f"{where}.resources.requests",
                f"{' and '.join(missing)} not requested, so the quota would not count it",
            )
