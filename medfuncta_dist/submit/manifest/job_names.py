"""What a RayJob is called, and the labels by which it is found again. The run's name is its identity; a RayJob is one
attempt at some of its stages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medfuncta_dist.storage.digest import digest_json

MAX_NAME_LENGTH = 47
"""KubeRay appends six characters for the RayCluster, whose services must still be DNS labels."""
MAX_LABEL_LENGTH = 63

LABEL_PREFIX = "medfuncta.dev"
RUN_LABEL = f"{LABEL_PREFIX}/run"
STAGE_LABEL = f"{LABEL_PREFIX}/stage"
ATTEMPT_LABEL = f"{LABEL_PREFIX}/attempt"
SUBMISSION_LABEL = f"{LABEL_PREFIX}/submission"
RUN_FILE_DIGEST_LABEL = f"{LABEL_PREFIX}/run-file-digest"
COMMIT_LABEL = f"{LABEL_PREFIX}/commit"
IDEMPOTENCY_KEY_LABEL = f"{LABEL_PREFIX}/idempotency-key"


def join_stages(stages: Sequence[str]) -> str:
    """Several stages as one word, which is also a label's value: ``pack.train``."""
    return ".".join(stages)


def make_rayjob_name(run: str, stage: str, attempt: int) -> str:
    """A DNS-1035 label of at most 47 characters, different for each run, stage (see ``stage_name``) and attempt.

    ``<run>-<stage>-<attempt>`` where that fits, else with the stages' first letters, else with a digest for the rest.
    """
    stages = stage.split(".")
    letters = "".join(name[0] for name in stages)
    whole = [f"{run}-{stage}-{attempt}"] if len(stages) == 1 else []
    for name in [*whole, f"{run}-{letters}{attempt}"]:
        if len(name) <= MAX_NAME_LENGTH:
            return name
    digest = digest_json([run, stage, attempt])[:10]
    # No run's name ends with a dash, so two of them before the last part stand in this form only.
    return f"{run[: MAX_NAME_LENGTH - len(digest) - 2].rstrip('-')}--{digest}"


def make_labels(run: str, stage: str, attempt: int, submission: str, digest: str, commit: str) -> dict[str, str]:
    """All by which a RayJob is looked up; values cut and cleaned to what a label may hold."""
    values = {RUN_LABEL: run, STAGE_LABEL: stage, ATTEMPT_LABEL: str(attempt), SUBMISSION_LABEL: submission}
    return {
        key: to_label_value(value)
        for key, value in {**values, RUN_FILE_DIGEST_LABEL: digest, COMMIT_LABEL: commit}.items()
    }


def to_label_value(text: str) -> str:
    """``text`` as a label's value: at most 63 of ``[A-Za-z0-9._-]``, alphanumeric at both ends, possibly empty."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).strip("._-")[:MAX_LABEL_LENGTH].rstrip("._-")


def hash_idempotency_key(idempotency_key: str) -> str:
    """Any text as a label's value by which it is found again: its digest."""
    return digest_json(idempotency_key)[:MAX_LABEL_LENGTH]


def make_label_selector(**wanted: str) -> str:
    """A label selector: ``selector(run="ecg", stage="train")``."""
    return ",".join(f"{LABEL_PREFIX}/{name.replace('_', '-')}={value}" for name, value in wanted.items())
