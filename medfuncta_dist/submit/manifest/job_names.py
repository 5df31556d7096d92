"""What a RayJob is called, and the labels by which it is found again. The run's name is its identity; a RayJob is one
attempt at some of its stages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medfuncta_dist.storage.digest import digest_json

LONGEST_NAME = 47
"""KubeRay appends six characters for the RayCluster, whose services must still be DNS labels."""
LONGEST_LABEL = 63

PREFIX = "medfuncta.dev"
RUN = f"{PREFIX}/run"
STAGE = f"{PREFIX}/stage"
ATTEMPT = f"{PREFIX}/attempt"
SUBMISSION = f"{PREFIX}/submission"
RUN_FILE_DIGEST = f"{PREFIX}/run-file-digest"
COMMIT = f"{PREFIX}/commit"
IDEMPOTENCY_KEY = f"{PREFIX}/idempotency-key"


def stage_name(stages: Sequence[str]) -> str:
    """Several stages as one word, which is also a label's value: ``pack.train``."""
    return ".".join(stages)


def rayjob_name(run: str, stage: str, attempt: int) -> str:
    """A DNS-1035 label of at most 47 characters, different for each run, stage (see ``stage_name``) and attempt.

    ``<run>-<stage>-<attempt>`` where that fits, else with the stages' first letters, else with a digest for the rest.
    """
    stages = stage.split(".")
    letters = "".join(name[0] for name in stages)
    whole = [f"{run}-{stage}-{attempt}"] if len(stages) == 1 else []
    for name in [*whole, f"{run}-{letters}{attempt}"]:
        if len(name) <= LONGEST_NAME:
            return name
    digest = digest_json([run, stage, attempt])[:10]
    # No run's name ends with a dash, so two of them before the last part stand in this form only.
    return f"{run[: LONGEST_NAME - len(digest) - 2].rstrip('-')}--{digest}"


def labels(run: str, stage: str, attempt: int, submission: str, digest: str, commit: str) -> dict[str, str]:
    """All by which a RayJob is looked up; values cut and cleaned to what a label may hold."""
    values = {RUN: run, STAGE: stage, ATTEMPT: str(attempt), SUBMISSION: submission}
    return {key: label_value(value) for key, value in {**values, RUN_FILE_DIGEST: digest, COMMIT: commit}.items()}


def label_value(text: str) -> str:
    """``text`` as a label's value: at most 63 of ``[A-Za-z0-9._-]``, alphanumeric at both ends, possibly empty."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).strip("._-")[:LONGEST_LABEL].rstrip("._-")


def key_label(idempotency_key: str) -> str:
    """Any text as a label's value by which it is found again: its digest."""
    return digest_json(idempotency_key)[:LONGEST_LABEL]


def selector(**wanted: str) -> str:
    """A label selector: ``selector(run="ecg", stage="train")``."""
    return ",".join(f"{PREFIX}/{name.replace('_', '-')}={value}" for name, value in wanted.items())
