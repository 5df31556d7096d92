"""The run file and the stages of a RayJob, as rules ask for them."""

from __future__ import annotations

from functools import lru_cache

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import KNOWN
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest.job_names import STAGE_LABEL
from medfuncta_dist.submit.manifest.runtime_env import read_run_file
from medfuncta_dist.submit.rules.manifest_view import RayJob


def require_run_file(job: RayJob) -> RunFile:
    """The run file inside. RunFileError if there is no valid one."""
    return _parse(read_run_file(job.manifest))


def find_run_file(job: RayJob) -> RunFile | None:
    """The same; None if there is no valid one, which is a breach of the rule ``run-file``."""
    try:
        return require_run_file(job)
    except RunFileError:
        return None


def list_stages(job: RayJob) -> list[str]:
    """The stages in the job's label, without what is no stage."""
    return [stage for stage in str(job.labels.get(STAGE_LABEL, "")).split(".") if stage in KNOWN]


@lru_cache(maxsize=4)
def _parse(text: str) -> RunFile:
    return parse(text)
