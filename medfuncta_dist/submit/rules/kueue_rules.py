"""Rules of Kueue's webhooks for a RayJob in a queue. (pkg/controller/jobs/rayjob, raycluster)"""

from __future__ import annotations

import re
from collections.abc import Iterator

from medfuncta_dist.submit.rules.manifest_view import QUEUE_LABEL, RayJob, as_mapping
from medfuncta_dist.submit.rules.rule import RuleBook

RULES = RuleBook()
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
MAX_GROUPS = 17
"""A workload has at most 18 sets of pods, and the head is one."""
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

Breaches = Iterator[tuple[str, str]]


@RULES.rule("kueue-queue-name", "set kubernetes.queue to the name of a LocalQueue in the namespace")
def _queue(job: RayJob) -> Breaches:
    if job.queue is not None and not DNS_LABEL.fullmatch(str(job.queue)):
        yield f"metadata.labels[{QUEUE_LABEL}]", f"{job.queue!r} is no name of a queue"


@RULES.rule("kueue-priority", "set kubernetes.queue too, or leave kubernetes.priority out")
def _priority(job: RayJob) -> Breaches:
    if PRIORITY_LABEL in job.labels and job.queue is None:
        yield f"metadata.labels[{PRIORITY_LABEL}]", "a priority without a queue says nothing"


@RULES.rule("kueue-shutdown", "set shutdownAfterJobFinishes to true")
def _shutdown(job: RayJob) -> Breaches:
    if job.queue is not None and not job.shutdown:
        yield "spec.shutdownAfterJobFinishes", "a queued job that keeps its cluster would hold its quota for ever"


@RULES.rule("kueue-own-cluster", "leave clusterSelector out")
def _own_cluster(job: RayJob) -> Breaches:
    if job.queue is not None and job.selected:
        yield "spec.clusterSelector", "a queued job can not use an existing cluster"


@RULES.rule("kueue-suspend", "leave suspend out")
def _suspend(job: RayJob) -> Breaches:
    if job.queue is not None and "suspend" in job.spec:
        yield "spec.suspend", "in a queue, this field is Kueue's"


@RULES.rule("kueue-no-autoscaling", "leave enableInTreeAutoscaling out: a queue gives all pods at once")
def _autoscaling(job: RayJob) -> Breaches:
    if job.queue is not None and job.autoscaling:
        yield "spec.rayClusterSpec.enableInTreeAutoscaling", "a queued job can not grow by itself"


@RULES.rule("kueue-groups", f"use at most {MAX_GROUPS} worker groups")
def _groups(job: RayJob) -> Breaches:
    if job.queue is not None and len(job.groups) > MAX_GROUPS:
        yield "spec.rayClusterSpec.workerGroupSpecs", f"{len(job.groups)} groups, Kueue counts {MAX_GROUPS} at most"


@RULES.rule("kueue-group-name", "rename the group")
def _group_name(job: RayJob) -> Breaches:
    if job.queue is not None and any(group.get("groupName") == "head" for group in job.groups):
        yield "spec.rayClusterSpec.workerGroupSpecs[head]", "to Kueue, this name is the head's"


@RULES.rule("kueue-requests", "set the container's resources: Kueue counts requests")
def _requests(job: RayJob) -> Breaches:
    for where, container in job.ray_containers() if job.queue is not None else ():
        requests = as_mapping(as_mapping(container.get("resources")).get("requests"))
        missing = [name for name in ("cpu", "memory") if name not in requests]
        if missing:
            yield (
                f"{where}.resources.requests",
                f"{' and '.join(missing)} not requested, so the quota would not count it",
            )
