"""Why an image is not pulled, from the kubelet's and the container runtime's texts. Pure."""

from __future__ import annotations

import re

from medfuncta_dist.submit.waiting.cluster_facts import Reason

PULL_STATES = (
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
"""What a container waits in when its image is not there."""
NAME_KEY = "kubernetes.image (kubernetes.cpu_image for pods without GPUs)"
CORRECT = f"correct {NAME_KEY} in the run file"
CAUSES = (
    # The order matters: "failed to authorize: … no such host" is about the name, "denied: … does not exist" not.
    (
        r"x509|certificate",
        "the node does not trust the registry's certificate",
        "install the registry's CA on the nodes",
    ),
    (
        r"toomanyrequests|Too Many Requests|rate limit",
        "the registry's limit of pulls is reached",
        "wait, or log in to the registry (kubernetes.image_pull_secrets), or use a mirror",
    ),
    (r"no space left on device", "the node's disk is full", "free or enlarge the disk of the node that it names"),
    (
        r"no match for platform|no matching manifest",
        "the image is not built for the node's architecture",
        f"{CORRECT}, or choose other nodes (kubernetes.gpu.labels, kubernetes.head.labels)",
    ),
    (
        r"no such host|server misbehaving|name resolution|lookup \S+ (on|:)",
        "the registry's name cannot be resolved",
        f"{CORRECT}, or mend DNS on the nodes",
    ),
    (
        r"unauthorized|authentication required|access denied|denied:|\b401\b|\b403\b|no basic auth|unauthenticated",
        "the registry refuses it: it needs credentials, or there is no such repository",
        f"{CORRECT}; if the name is right, name a Secret with the registry's login in kubernetes.image_pull_secrets",
    ),
    (
        r"not found|manifest unknown|does not exist",
        "the registry has no such image or tag",
        f"push it, or {CORRECT}",
    ),
    (
        r"timeout|deadline exceeded|connection refused|connection reset|no route to host|EOF|network is unreachable",
        "the registry does not answer",
        "check that the nodes reach the registry (firewall, proxy)",
    ),
)
"""Pattern, what it means, and what to do."""


def explain_image(image: str, state: str, texts: tuple[str, ...], namespace: str) -> Reason:
    """The reason why an image is not there. ``texts`` are messages about it, the most telling first.

    ``state`` is the container's waiting reason.
    """
    if state == "ErrImageNeverPull":
        what = f"The image {image} is not on the node, and imagePullPolicy Never forbids to pull it."
        return Reason(what, "load the image into the nodes; only a cluster on a laptop needs the overlay local")
    if state == "InvalidImageName":
        return Reason(f"{image} is not the name of an image.", CORRECT, resubmit=True)
    for text in texts:
        for pattern, meaning, do in CAUSES:
            if re.search(pattern, text, re.IGNORECASE):
                sentence = f"The image {image} cannot be pulled: {meaning}."
                return Reason(sentence, do, resubmit=CORRECT in do)
    return Reason(
        f"The image {image} cannot be pulled.",
        f"`kubectl -n {namespace} get events --field-selector reason=Failed` shows why",
    )
