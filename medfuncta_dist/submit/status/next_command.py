"""The command that continues a run, which depends on where it ran. Pure.

A run is continued where it was started: a local one by the stage's own command, one on a cluster by ``resume`` with the
options that name this cluster. What the user typed is repeated, because it works: a job's name is of no use once the
cluster has deleted the job.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PROGRAM = "medfuncta-dist"


class Place(StrEnum):
    """Where a run's last driver ran, or its job was sent."""

    NOWHERE = "nowhere"
    """Nothing of the run was ever started."""
    LOCAL = "local"
    """In a command on some machine, not in a submitted job."""
    RAY = "ray"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class Invocation:
    """What the user typed, for commands that must mean the same run."""

    target: str
    """RUN.yaml|NAME."""
    options: tuple[str, ...] = ()
    """Options that name the cluster: ``--backend ray --address URL``, ``--context NAME``."""
    storage: str = ""
    """The root below which a name was looked up; empty if none was given."""

    @property
    def is_run_file(self) -> bool:
        """Whether the target is a run file's path."""
        return self.target.endswith((".yaml", ".yml")) or "/" in self.target

    @property
    def words(self) -> list[str]:
        """What names the same run in another command: target, storage, cluster."""
        return [self.target, *(["--storage", self.storage] if self.storage else []), *self.options]

    @property
    def logs_command(self) -> str:
        """The command that prints the whole log."""
        return _join([PROGRAM, "logs", *self.words])


@dataclass(frozen=True)
class Continuation:
    """How a run goes on."""

    place: Place
    invocation: Invocation
    stage: str = ""
    """The stage that is not finished; empty if none is known."""
    overrides: tuple[str, ...] = ()
    """``key=value`` texts with which the run was begun, and without which it would be refused now."""
    is_on_cluster: bool = False

    @property
    def command(self) -> str:
        """The command, as it can be typed."""
        if self.place in (Place.LOCAL, Place.NOWHERE):
            settings = [word for text in self.overrides for word in ("--set", text)]
            return _join([PROGRAM, self.stage, self._run_file, *settings])
        if self.invocation.storage:
            return _join([PROGRAM, "resume", *self.invocation.words])
        named = self.invocation.target if self.is_on_cluster or self.invocation.is_run_file else self._run_file
        return _join([PROGRAM, "resume", named, *self.invocation.options])

    @property
    def again(self) -> str:
        """The commands that submit a waiting job again, with what the run file says now."""
        options = self.invocation.options
        cancel = _join([PROGRAM, "cancel", *self.invocation.words])
        return f"{cancel} && {_join([PROGRAM, 'resume', self._run_file, *options])}"

    def build_start(self, stages: Sequence[str]) -> str:
        """The command that submits these stages of a run for the first time."""
        return _join([PROGRAM, "submit", self._run_file, *stages, *self.invocation.options])

    @property
    def _run_file(self) -> str:
        return self.invocation.target if self.invocation.is_run_file else "RUN.yaml"


def _join(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
