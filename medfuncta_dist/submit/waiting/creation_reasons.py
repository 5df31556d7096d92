"""Why KubeRay cannot create a pod or a RayCluster: the API server's refusal, as KubeRay repeats it. Pure.

Failed to create head Pod ml/x-head-, pods "x-head-abcde" is forbidden: exceeded quota: medfuncta, requested: …
"""

from __future__ import annotations

import re

from medfuncta_dist.submit.waiting.cluster_facts import Reason, as_phrase

QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>.+?), used: (?P<used>.+?), limited: (?P<limit>.+)"
)
AMOUNT = re.compile(r"([\w./-]+)=([\w.]+)")


def explain_refusal(text: str, namespace: str) -> Reason:
    """The reason in a refusal. One that is not known is repeated."""
    if quota := QUOTA.search(text):
        return _explain_quota(quota, namespace)
    for pattern, reason in KNOWN:
        if found := re.search(pattern, text, re.DOTALL):
            names = {name: as_phrase(value or "") for name, value in found.groupdict().items()}
            return reason.fill(namespace=namespace, **names)
    told = text.strip().splitlines()[0].rstrip(".") if text.strip() else "no reason is given"
    return Reason(
        f"The cluster refuses to create its pods: {told}.",
        f"`kubectl -n {namespace} get events --field-selector type=Warning` shows the whole answer",
    )


def _explain_quota(found: re.Match[str], namespace: str) -> Reason:
    used, limit = dict(AMOUNT.findall(found["used"])), dict(AMOUNT.findall(found["limit"]))
    told = ", ".join(
        f"{amount} {resource} requested, {used.get(resource, '?')} of {limit.get(resource, '?')} used"
        for resource, amount in AMOUNT.findall(found["asked"])
    )
    return Reason(
        f"The ResourceQuota {found['name']} does not allow another pod: {told}.",
        "wait until other runs end, or ask for less, or have the quota raised: "
        f"kubectl -n {namespace} describe resourcequota {found['name']}",
    )


KNOWN = (
    (
        r"failed quota: (?P<quota>[^:]+): must specify (?P<what>[^;]+)",
        Reason(
            "The ResourceQuota {quota} wants every container to specify {what}.",
            "set a default for it with a LimitRange in the namespace {namespace}",
        ),
    ),
    (
        r"(?P<what>(?:maximum|minimum) \S+ usage per \w+ is [^,]+, but \w+ is [\w.]+\w)",
        Reason(
            "A LimitRange of the namespace does not allow its pods: {what}.",
            "change what the run file asks for; kubectl -n {namespace} describe limitrange shows what is allowed",
            resubmit=True,
        ),
    ),
    (
        r'violates PodSecurity "(?P<level>[^"]+)": (?P<what>.+)',
        Reason(
            "The namespace's pod security standard {level} does not allow its pods: {what}.",
            "remove what it names from your own overlay's rayjob.yaml (pods as shipped keep to the standard)",
            resubmit=True,
        ),
    ),
    (
        r'failed calling webhook "(?P<hook>[^"]+)".*?: (?P<what>[^:]+)$',
        Reason(
            "The webhook {hook}, which checks new objects, does not answer: {what}.",
            "have its operator mended: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations",
        ),
    ),
    (
        r'admission webhook "(?P<hook>[^"]+)" denied the request: (?P<what>.+)',
        Reason("The webhook {hook} refuses its pods: {what}.", "correct what it names", resubmit=True),
    ),
    (
        r"ValidatingAdmissionPolicy '(?P<policy>[^']+)'.*? denied request: (?P<what>.+)",
        Reason("The admission policy {policy} refuses its pods: {what}.", "correct what it names", resubmit=True),
    ),
    (
        r'serviceaccount "(?P<account>[^"]+)" not found',
        Reason(
            "The namespace has no ServiceAccount {account}.",
            "create it (k8s/base has medfuncta; the job then starts by itself), or correct kubernetes.service_account",
        ),
    ),
    (
        r"no PriorityClass with name (?P<name>\S+) was found",
        Reason(
            "The cluster has no PriorityClass {name}.",
            "create it, or correct kubernetes.priority_class or head_priority_class, or your own overlay's rayjob.yaml",
        ),
    ),
    (
        r'User "(?P<user>system:serviceaccount:[^"]+)" cannot (?P<verb>\w+) resource "(?P<what>\w+)"',
        Reason(
            "KubeRay ({user}) may not {verb} {what} in the namespace.",
            "give KubeRay's operator rights in the namespace {namespace} (Helm value watchNamespace, and its roles)",
        ),
    ),
    (
        r'namespaces "?(?P<name>[\w-]+)"? not found|namespace (?P<other>[\w-]+) because it is being terminated',
        Reason(
            "The namespace does not exist any more, or is being deleted.",
            "create it again (kubectl apply -k k8s/base), and its Secrets",
            resubmit=True,
        ),
    ),
)
"""Patterns with named groups, and the reasons in which these are filled in."""
