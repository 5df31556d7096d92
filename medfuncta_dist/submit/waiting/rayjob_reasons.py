"""Why a RayJob has not started its driver, from what KubeRay and Kueue write into it and its RayCluster. Pure."""

from __future__ import annotations

from medfuncta_dist.submit.waiting.cluster_facts import (
    ClusterFacts,
    Reason,
    Thing,
    as_phrase,
    find_condition,
    get_name,
    get_status,
)
from medfuncta_dist.submit.waiting.creation_reasons import explain_refusal
from medfuncta_dist.submit.waiting.queue_reasons import explain_workload

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
CLUSTER_REFUSALS = ("FailedToCreateHeadPod", "FailedToCreateWorkerPod", "FailedToCreateService")
JOB_REFUSALS = ("FailedToCreateRayCluster", "FailedToCreateRayJobSubmitter")
OPERATOR = "kubectl get pods --all-namespaces -l app.kubernetes.io/component=kuberay-operator"


def get_deployment_status(facts: ClusterFacts) -> str:
    """KubeRay's ``jobDeploymentStatus``; empty until KubeRay has seen the job."""
    return str(get_status(facts.job).get("jobDeploymentStatus", ""))


def explain_queue(facts: ClusterFacts) -> Reason | None:
    """Why the job is suspended; None if it is not."""
    found = (explain_workload(workload, facts.namespace) for workload in facts.workloads)
    reason = next((reason for reason in found if reason is not None), None)
    if reason is not None or not (facts.job.get("spec") or {}).get("suspend"):
        return reason
    queue = (facts.job.get("metadata", {}).get("labels") or {}).get(QUEUE_LABEL)
    if queue is None:
        return Reason(
            "The RayJob is suspended, and it names no queue: somebody suspended it by hand.",
            f"kubectl -n {facts.namespace} patch rayjob {facts.name} --type merge "
            """-p '{"spec":{"suspend":false}}'""",
        )
    if facts.workloads:
        return Reason("Kueue has admitted it, and is about to start it.", "wait a moment")
    return Reason(
        f"It names the queue {queue}, and Kueue has made no Workload for it.",
        "if it stays so for a minute, check that Kueue runs with the integration ray.io/rayjob: "
        "kubectl -n kueue-system get pods",
    )


def explain_creation(facts: ClusterFacts) -> Reason | None:
    """The API server's refusal of a pod or of the RayCluster; None if it refused nothing lately."""
    refusal = facts.find_message(facts.job, *JOB_REFUSALS) if facts.cluster is None else _find_refusal(facts)
    return explain_refusal(refusal, facts.namespace) if refusal else None


def _find_refusal(facts: ClusterFacts) -> str:
    """What keeps the cluster from its pods now. Events of an attempt that succeeded later do not count."""
    assert facts.cluster is not None
    failure = find_condition(facts.cluster, "ReplicaFailure") or {}
    if failure.get("status") == "True":
        return str(failure.get("message", ""))
    status = get_status(facts.cluster)
    if status.get("state") == "failed" and status.get("reason"):
        return str(status["reason"])
    return "" if facts.pods else facts.find_message(facts.cluster, *CLUSTER_REFUSALS)


def explain_rayjob(facts: ClusterFacts) -> Reason | None:
    """How far KubeRay is with the job; None once the driver runs, and after its end."""
    deployment = get_deployment_status(facts)
    if deployment == "":
        do = (
            f"if it stays so for a minute, KubeRay's operator does not run or does not watch this namespace: {OPERATOR}"
        )
        return Reason("KubeRay has not taken the job up yet.", do)
    if deployment in ("Suspending", "Suspended"):
        return Reason("The job is suspended, and its pods are being removed.", "wait a moment")
    if deployment == "Retrying":
        return Reason(f"Its Ray cluster failed{_get_attempt(facts.job)}, and KubeRay is creating another.", "wait")
    if deployment == "Initializing" and facts.cluster is None:
        return Reason("KubeRay is creating its Ray cluster.", f"wait; if it stays so: {OPERATOR}")
    if deployment in ("Initializing", "Waiting") and not facts.pods:
        return Reason(
            f"KubeRay is creating the pods of {get_name(facts.cluster or {})}.", f"wait; if it stays so: {OPERATOR}"
        )
    if deployment in ("Initializing", "Waiting") or _is_submitting(facts.job, deployment):
        return _explain_submission(facts)
    return None


def _is_submitting(job: Thing, deployment: str) -> bool:
    return deployment == "Running" and get_status(job).get("jobStatus", "") in ("", "PENDING")


def _get_attempt(job: Thing) -> str:
    failed, limit = get_status(job).get("failed"), (job.get("spec") or {}).get("backoffLimit")
    return f" (failure {failed} of {limit + 1} allowed)" if failed and limit is not None else ""


def _explain_submission(facts: ClusterFacts) -> Reason:
    message = as_phrase(str(get_status(facts.job).get("message", "")))
    told = f": {message}" if message else ""
    return Reason(
        f"Its pods are ready, and KubeRay is handing the job to the dashboard of the head{told}.",
        "if it stays so for a minute, KubeRay's operator does not reach port 8265 of the head: k8s/base allows it with "
        f"the NetworkPolicy operator-to-head (kubectl -n {facts.namespace} get networkpolicies)",
    )
