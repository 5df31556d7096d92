"""What is known of a job and its run: from the cluster, from storage, and from what the user typed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medfuncta_dist.submit.backends.backend import Job
from medfuncta_dist.submit.status.job_records import SubmissionRecord, TerminalRecord
from medfuncta_dist.submit.status.next_command import Invocation, Place
from medfuncta_dist.submit.status.run_cost import HourlyCost
from medfuncta_dist.submit.waiting.cluster_facts import Explanation
from medfuncta_dist.telemetry.progress_record import StageProgress


@dataclass(frozen=True)
class RunFacts:
    """What is known of a job. ``job`` is None if the cluster does not have it; ``record``, if storage does not."""

    now: float
    name: str
    """The job's name; the run's, if nothing was submitted."""
    run: str
    stages: Sequence[str]
    job: Job | None = None
    record: SubmissionRecord | None = None
    progress: Mapping[str, StageProgress] = field(default_factory=dict)
    terminal: TerminalRecord | None = None
    rates: HourlyCost = field(default_factory=HourlyCost)
    explanation: Explanation = field(default_factory=Explanation)
    """Why the cluster does not run the job."""
    invocation: Invocation | None = None
    """What the user typed; None where no user asked: then the job's name stands for it."""
    backend: str = Place.KUBERNETES
    """Where jobs are looked for."""
    overrides: tuple[str, ...] = ()
    """Settings with which a local run was begun, beside those of the run file."""

    @property
    def waits_in_workflow(self) -> bool:
        """Whether a workflow has not started this job yet: the cluster lacks it, and no progress is recorded."""
        begun = any(progress.submission == self.name for progress in self.progress.values())
        return self.job is None and self.record is not None and self.record.workflow is not None and not begun
