"""The API server's refusals of pods, as KubeRay repeats them."""

from __future__ import annotations

import pytest

from medfuncta_dist.submit.waiting.creation_reasons import explain_refusal

HEAD = 'Failed to create head Pod ml/x-fit-1-abcde-head-, pods "x-fit-1-abcde-head-q1w2e" is forbidden: '
TEXTS = [
    (
        HEAD
        + "exceeded quota: medfuncta, requested: limits.cpu=12,requests.cpu=12, used: limits.cpu=490,requests.cpu=490,"
        " limited: limits.cpu=500,requests.cpu=500",
        "The ResourceQuota medfuncta does not allow another pod: 12 limits.cpu requested, 490 of 500 used, 12 "
        "requests.cpu "
        "requested, 490 of 500 used.",
        "kubectl -n ml describe resourcequota medfuncta",
    ),
    (
        HEAD + "failed quota: medfuncta: must specify limits.cpu for: wait-gcs-ready; requests.cpu for: wait-gcs-ready",
        "The ResourceQuota medfuncta wants every container to specify limits.cpu for: wait-gcs-ready.",
        "LimitRange",
    ),
    (
        HEAD + "maximum memory usage per Container is 16Gi, but limit is 64Gi",
        "A LimitRange of the namespace does not allow its pods: maximum memory usage per Container is 16Gi, but "
        "limit is "
        "64Gi.",
        "kubectl -n ml describe limitrange",
    ),
    (
        HEAD
        + 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set it)',
        "The namespace's pod security standard restricted:latest does not allow its pods: allowPrivilegeEscalation",
        "your own overlay's rayjob.yaml",
    ),
    (
        'admission webhook "validate.kyverno.svc-fail" denied the request: resource Pod/ml/x was blocked: label '
        "team missing",
        "The webhook validate.kyverno.svc-fail refuses its pods: resource Pod/ml/x was blocked: label team missing.",
        "correct what it names",
    ),
    (
        'Internal error occurred: failed calling webhook "mpod.kb.io": failed to call webhook: Post '
        '"https://webhook.kueue-system.svc:443/mutate?timeout=10s": dial tcp 10.0.0.9:443: connect: connection refused',
        "The webhook mpod.kb.io, which checks new objects, does not answer: connection refused.",
        "kubectl get validatingwebhookconfigurations",
    ),
    (
        "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'queue-name' with binding 'queue-name' denied request: "
        "The label "
        "'kueue.x-k8s.io/queue-name' is missing.",
        "The admission policy queue-name refuses its pods: The label 'kueue.x-k8s.io/queue-name' is missing.",
        "correct what it names",
    ),
    (
        HEAD + 'error looking up service account ml/medfuncta: serviceaccount "medfuncta" not found',
        "The namespace has no ServiceAccount medfuncta.",
        "kubernetes.service_account",
    ),
    (
        HEAD + "no PriorityClass with name urgent was found",
        "The cluster has no PriorityClass urgent.",
        "rayjob.yaml",
    ),
    (
        'rayclusters.ray.io is forbidden: User "system:serviceaccount:kuberay:kuberay-operator" cannot create resource '
        '"rayclusters" in API group "ray.io" in the namespace "ml"',
        "KubeRay (system:serviceaccount:kuberay:kuberay-operator) may not create rayclusters in the namespace.",
        "watchNamespace",
    ),
    (
        HEAD + "unable to create new content in namespace ml because it is being terminated",
        "The namespace does not exist any more, or is being deleted.",
        "kubectl apply -k k8s/base",
    ),
    (
        "Failed to create RayCluster ml/x: something that nobody has seen before",
        "The cluster refuses to create its pods: Failed to create RayCluster ml/x: something that nobody has seen "
        "before.",
        "kubectl -n ml get events",
    ),
]


@pytest.mark.parametrize(("text", "told", "do"), TEXTS)
def test_a_refusal_is_explained(text: str, told: str, do: str) -> None:
    reason = explain_refusal(text, "ml")
    assert reason.sentence.startswith(told)
    assert do in reason.do
    assert "{" not in reason.sentence + reason.do
