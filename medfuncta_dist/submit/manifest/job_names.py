"""The name of a RayJob, and the labels by which it is found.

The run's name is its identity; a RayJob is one attempt at some of its stages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medfuncta_dist.storage.digest import digest_json

MAX_NAME_LENGTH = 47
"""KubeRay appends six characters for the RayCluster, whose services must also be DNS labels."""
MAX_LABEL_LENGTH = 63

LABEL_PREFIX = "medfuncta.dev"
RUN_LABEL = f"{LABEL_PREFIX}/run"
STAGE_LABEL = f"{LABEL_PREFIX}/stage"
ATTEMPT_LABEL = f"{LABEL_PREFIX}/attempt"
SUBMISSION_LABEL = f"{LABEL_PREFIX}/submission"
RUN_FILE_DIGEST_LABEL = f"{LABEL_PREFIX}/run-file-digest"
COMMIT_LABEL = f"{LABEL_PREFIX}/commit"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MAX_TIME_LABEL = "kueue.x-k8s.io/max-exec-time-seconds"
"""Kueue copies it to the job's Workload, counts the time admitted, over preemptions too, and then deactivates it."""
IDEMPOTENCY_KEY_LABEL = f"{LABEL_PREFIX}/idempotency-key"

LETTERS = {"prior": "r"}
"""Of a stage whose first letter is another's."""


def join_stages(stages: Sequence[str]) -> str:
    """Several stages as one word, which is a valid label value: ``pack.train``."""
    return ".".join(stages)


def make_rayjob_name(run: str, stage: str, attempt: int) -> str:
    """A DNS-1035 label of at most 47 characters, different for each run, stage (see ``join_stages``) and attempt.

    ``<run>-<stage>-<attempt>`` if that fits, else with a letter for each stage, else with a digest.
    """
    stages = stage.split(".")
    letters = "".join(LETTERS.get(name, name[0]) for name in stages)
    full = [f"{run}-{stage}-{attempt}"] if len(stages) == 1 else []
    for name in [*full, f"{run}-{letters}{attempt}"]:
        if len(name) <= MAX_NAME_LENGTH:
            return name
    digest = digest_json([run, stage, attempt])[:10]
    # No run's name ends with a dash, so two dashes before the last part occur in this form only.
    return f"{run[: MAX_NAME_LENGTH - len(digest) - 2].rstrip('-')}--{digest}"


def make_labels(run: str, stage: str, attempt: int, submission: str, digest: str, commit: str) -> dict[str, str]:
    """The labels by which a RayJob is found; each value is made a valid label value."""
    values = {RUN_LABEL: run, STAGE_LABEL: stage, ATTEMPT_LABEL: str(attempt), SUBMISSION_LABEL: submission}
    return {
        key: to_label_value(value)
        for key, value in {**values, RUN_FILE_DIGEST_LABEL: digest, COMMIT_LABEL: commit}.items()
    }


def to_label_value(text: str) -> str:
    """``text`` as a label value: at most 63 of ``[A-Za-z0-9._-]``, alphanumeric at both ends, possibly empty."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).strip("._-")[:MAX_LABEL_LENGTH].rstrip("._-")


def hash_idempotency_key(idempotency_key: str) -> str:
    """The digest of an idempotency key, which is a valid label value."""
    return digest_json(idempotency_key)[:MAX_LABEL_LENGTH]


def make_label_selector(**wanted: str) -> str:
    """A label selector: ``selector(run="ecg", stage="train")``."""
    return ",".join(f"{LABEL_PREFIX}/{name.replace('_', '-')}={value}" for name, value in wanted.items())
