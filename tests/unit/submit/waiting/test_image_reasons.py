"""The texts of kubelet and container runtimes about images."""

from __future__ import annotations

import pytest

from medfuncta_dist.submit.waiting.image_reasons import explain_image

IMAGE = "registry.example/ml/medfuncta-dist:1"
PULL = f'Failed to pull image "{IMAGE}": rpc error: code = Unknown desc = '
RESOLVE = f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": '
TEXTS = [
    (
        PULL + "Error response from daemon: unauthorized: authentication required",
        "refuses it",
        "kubernetes.image_pull_secrets",
    ),
    (
        PULL + "Error response from daemon: pull access denied for ml/medfuncta-dist, repository does not exist or may "
        "require 'docker login': denied: requested access to the resource is denied",
        "refuses it",
        "kubernetes.image_pull_secrets",
    ),
    (
        PULL + RESOLVE + "unexpected status from HEAD request: 403 Forbidden",
        "refuses it",
        "kubernetes.image_pull_secrets",
    ),
    (
        PULL + RESOLVE + "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
        "refuses it",
        "kubernetes.image_pull_secrets",
    ),
    (
        f'Failed to pull image "{IMAGE}": rpc error: code = NotFound desc = {RESOLVE}{IMAGE}: not found',
        "has no such image or tag",
        "push it, or correct kubernetes.image",
    ),
    (PULL + "Error response from daemon: manifest for ml/x:1 not found: manifest unknown", "no such image", "push it"),
    (
        PULL
        + RESOLVE
        + 'failed to do request: Head "https://registry.example/v2/": dial tcp: lookup registry.example on '
        "10.96.0.10:53: no such host",
        "name cannot be resolved",
        "mend DNS",
    ),
    (
        PULL
        + RESOLVE
        + 'failed to do request: Head "https://registry.example/v2/": dial tcp 10.1.2.3:443: i/o timeout',
        "does not answer",
        "firewall",
    ),
    (
        PULL + RESOLVE + "failed to do request: tls: failed to verify certificate: x509: certificate signed by unknown "
        "authority",
        "does not trust the registry's certificate",
        "CA on the nodes",
    ),
    (
        PULL + "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
        "limit of pulls",
        "wait",
    ),
    (PULL + "no match for platform in manifest sha256:12: not found", "architecture", "correct kubernetes.image"),
    (PULL + "write /var/lib/containerd/tmp/x: no space left on device", "disk is full", "free or enlarge"),
]


@pytest.mark.parametrize(("text", "told", "do"), TEXTS)
def test_the_runtimes_words_are_explained(text: str, told: str, do: str) -> None:
    vague = f'Back-off pulling image "{IMAGE}"'
    reason = explain_image(IMAGE, "ImagePullBackOff", (vague, text), "ml")
    assert reason.sentence.startswith(f"The image {IMAGE} cannot be pulled: ")
    assert told in reason.sentence
    assert do in reason.do
    assert reason.resubmit is ("correct kubernetes.image" in reason.do)


def test_states_that_need_no_registry_are_told_by_themselves() -> None:
    never = explain_image("medfuncta-dist:1", "ErrImageNeverPull", (), "ml")
    assert "not on the node" in never.sentence
    assert "load the image" in never.do
    assert explain_image("A b", "InvalidImageName", (), "ml").sentence == "A b is not the name of an image."


def test_without_the_runtimes_words_it_is_said_where_they_are() -> None:
    reason = explain_image(IMAGE, "ImagePullBackOff", (f'Back-off pulling image "{IMAGE}"',), "ml")
    assert reason.sentence == f"The image {IMAGE} cannot be pulled."
    assert "kubectl -n ml get events" in reason.do
