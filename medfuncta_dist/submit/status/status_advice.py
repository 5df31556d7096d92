"""Why a run waits or failed, and the next action, from what is known of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.status.next_command import Continuation, Invocation, Place
from medfuncta_dist.submit.status.run_facts import RunFacts
from medfuncta_dist.telemetry.progress_record import StageProgress

WAITING = (JobState.QUEUED, JobState.STARTING, JobState.RETRYING)
"""States of a job that is going to run."""
INTERRUPTIONS = ("Interrupted", "InterruptedRunError", "LeaseLostError")
"""Kinds of failures after which nothing has to be mended."""


@dataclass(frozen=True)
class StatusAdvice:
    """Sentences, each possibly empty: why it waits, why it failed last, and what to do."""

    waiting: str = ""
    failure: str = ""
    do: str = ""
    """What to do before ``command``, or instead of it."""
    command: str = ""
    is_alive: bool = False
    """Whether the job is still there: then the command is needed only for a change."""

    @property
    def text(self) -> str:
        """What to do now; it ends with the command, if there is one."""
        before = "; after the change: " if self.is_alive else "; then "
        return before.join(part for part in (self.do, self.command) if part)


def advise(facts: RunFacts, state: JobState, progress: StageProgress | None, place: Place, stage: str) -> StatusAdvice:
    """The advice for a run in this state, of whose current stage this progress is recorded."""
    invocation = facts.invocation or Invocation(facts.name)
    going_on = Continuation(place, invocation, stage, facts.overrides, facts.job is not None)
    if facts.terminal is not None and state is not JobState.DONE:
        return StatusAdvice(failure=to_sentence(facts.terminal.what), do=facts.terminal.do)
    if place is Place.NOWHERE:
        return StatusAdvice("Nothing of this run was started yet.", command=going_on.build_start(STAGES))
    cause: Mapping[str, str] = (progress.failure if progress is not None else None) or {}
    failure = to_sentence(cause.get("what", ""))
    if state is JobState.QUEUED and facts.record is not None and facts.waits_in_workflow:
        workflow = facts.record.workflow
        do = f"if `kubectl get workflow {workflow}` fails: {going_on.command}"
        return StatusAdvice(f"It waits for its turn in the workflow {workflow}.", failure, do)
    if state in (*WAITING, JobState.RUNNING):
        return _advise_waiting(facts, state, failure, going_on)
    advice = "" if is_interruption(cause) else cause.get("do", "")
    return _advise_ended(facts, state, failure, advice, going_on)


def find_place(facts: RunFacts) -> Place:
    """Where the run is: the newest of its submissions and of its drivers outside jobs decides."""
    if facts.job is not None and not facts.job.state.is_over:
        return Place(facts.backend)
    local = [progress.updated for progress in facts.progress.values() if progress.submission is None]
    if local and facts.job is None and (facts.record is None or max(local) > facts.record.time):
        return Place.LOCAL
    if facts.record is not None:
        return Place(facts.record.backend)
    return Place(facts.backend) if facts.job is not None or facts.progress else Place.NOWHERE


def is_interruption(failure: Mapping[str, str]) -> bool:
    """Whether a driver ended because it was told to."""
    return failure.get("kind") in INTERRUPTIONS


def to_sentence(text: str) -> str:
    """The first line of a text, as a sentence."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line[0].upper() + line[1:].rstrip(".:") + "." if line else ""


def _advise_waiting(facts: RunFacts, state: JobState, failure: str, going_on: Continuation) -> StatusAdvice:
    """Of a job that runs or is going to. A running job's own message is old."""
    message = to_sentence(facts.job.message) if facts.job is not None and state in WAITING else ""
    if state is JobState.RETRYING and message:
        failure, message = failure or message, ""
    reason = facts.explanation.reason
    if reason is None:
        return StatusAdvice(message, failure)
    again = going_on.again if reason.resubmit else ""
    return StatusAdvice(reason.sentence, failure, reason.do, again, is_alive=True)


def _advise_ended(facts: RunFacts, state: JobState, failure: str, advice: str, going_on: Continuation) -> StatusAdvice:
    """Of a job that has ended: from the driver, else from its pods, else from the cluster's message."""
    if state not in (JobState.FAILED, JobState.LOST, JobState.CANCELLED):
        return StatusAdvice(failure=failure)
    if state is JobState.CANCELLED:
        saved = failure if going_on.place is Place.LOCAL else ""  # it says up to which step the command saved
        return StatusAdvice(failure=saved, command=going_on.command)
    reason = facts.explanation.reason
    message = to_sentence(facts.job.message) if facts.job is not None else ""
    if not failure and reason is not None:
        failure, advice = reason.sentence, reason.do if reason.resubmit else ""
    silent = "Its driver" if going_on.place is Place.LOCAL else "The job is not on the cluster, and its driver"
    otherwise = {
        JobState.LOST: f"{silent} never reported an end.",
        JobState.FAILED: "The job failed without giving a reason.",
    }
    return StatusAdvice("", failure or message or otherwise[state], advice, going_on.command)
