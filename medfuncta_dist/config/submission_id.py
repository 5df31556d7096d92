"""Whether this process is a submitted job, and of which submission: the manifest says so in an environment variable."""

from __future__ import annotations

import os
import re

from medfuncta_dist.errors import RunFileError

JOB_VARIABLE = "MEDFUNCTA_JOB"
"""Holds the submission's id; every retry of the same submission has the same."""
SUBMISSION_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def submission_id() -> str | None:
    """The id of the submission that this process is a try of; None outside a job."""
    given = os.environ.get(JOB_VARIABLE)
    if not given:
        return None
    if SUBMISSION_ID.fullmatch(given) is None:
        raise RunFileError(
            f"not a submission's id: {given!r}",
            where=JOB_VARIABLE,
            do="set it to lowercase letters, digits and dashes, at most 63; outside jobs leave it unset",
        )
    return given
