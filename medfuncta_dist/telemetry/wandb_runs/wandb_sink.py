"""Weights & Biases as a sink: offline unless a key is set, and without data about the machine or its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from wandb import Artifact as WandbArtifact  # now, while its temporary folders have their place (open_wandb.py)

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.telemetry_section import Telemetry
from medfuncta_dist.telemetry.artifact import Artifact, Role
from medfuncta_dist.telemetry.wandb_runs.tracked_run import TrackedRun, thin_out

TYPES = {"network": "model"}
"""What W&B calls a kind of artifact, where it has a name of its own."""
SERVICE = "WANDB_SERVICE"
"""The variable by which a process finds the one that W&B serves its parent with."""
KEPT = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")
"""Variables that say where W&B keeps what it is about to upload, and what it had."""
MOST_REPEATED = 10_000
"""Steps that an attempt repeats before it begins: three seconds of one core (0.33 ms each), in which training waits."""
VERSION_DIGITS = 12
"""Of a digest, in the alias that finds a version of an artifact."""


def mode_of(telemetry: Telemetry, key_is_set: bool) -> str:
    """``off``, ``offline`` or ``online``. ``auto`` goes online exactly when a key is set."""
    if telemetry.wandb == "auto":
        return "online" if key_is_set else "offline"
    return telemetry.wandb


class WandbSink:
    """One attempt's part of a W&B run: all attempts have its id. ``folder`` is local: an offline run stays there.

    An offline run has no server that could continue it, and the machine of an earlier attempt may be gone with what it
    wrote. So each attempt begins with what the attempts before it have logged, from storage: it is whole by itself.
    """

    def __init__(self, run: RunFile, tracked: TrackedRun, folder: Path) -> None:
        kept = folder.resolve() / "wandb"  # where W&B puts a run of ``folder`` by itself
        kept.mkdir(parents=True, exist_ok=True)
        online = mode_of(run.telemetry, bool(os.environ.get("WANDB_API_KEY"))) == "online"
        self._kept, self._history = kept, tracked.history
        # The process that W&B serves us with is our own. One that is inherited, as a rank's from whoever started it,
        # serves an attempt that was killed there until it ends itself, and has no second run of its id.
        os.environ.pop(SERVICE, None)
        with _kept_in(kept):
            wandb.setup(wandb.Settings(silent=True))  # of what no run says, such as that it cannot check our references
            self._run = wandb.init(
                project=run.telemetry.project,
                name=run.name if tracked.job == "train" else f"{run.name} {tracked.job}",
                id=tracked.id,
                group=run.name,
                job_type=tracked.job,
                resume="allow" if online else None,
                mode="online" if online else "offline",
                dir=kept.parent,
                config=public_config(run),
                settings=_settings(),
            )
        self._last = self._run.starting_step  # 0 of a run that is new, or offline

    @property
    def folder(self) -> Path:
        """Where W&B keeps this run on this machine."""
        return Path(self._run.dir).parent

    @property
    def offline(self) -> bool:
        """Whether nothing is sent."""
        return bool(self._run.offline)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Numbers of one outer step. Those of a step that W&B had before this attempt are left out.

        Those that come after the next step's, as a checkpoint's do, are put there: W&B takes no earlier step.
        """
        if step >= self._run.starting_step:
            self._last = max(step, self._last)
            self._run.log(metrics, step=self._last)

    def catch_up(self, step: int, most: int | None = None) -> None:
        """Log what earlier attempts have logged up to an outer step, this one included, as far as W&B lacks it: all of
        it, or about ``most`` steps."""
        logged = [line for line in self._history() if line[0] <= step]
        for earlier, metrics in logged if most is None else thin_out(logged, most):
            self.log(earlier, metrics)

    def event(self, name: str, **fields: Any) -> None:
        """The last event of each name is kept in the run's summary. An attempt that has started knows after which step
        it goes on: up to there, what earlier ones have logged counts."""
        if name == "started" and fields["step"]:
            self.catch_up(fields["step"], MOST_REPEATED)
        self._run.summary[f"event/{name}"] = fields

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """Log a picture; the caller has checked ``telemetry.images``."""
        self._last = max(step, self._last)
        self._run.log({name: wandb.Image(np.asarray(array, dtype=float) * 255)}, step=self._last)

    def artifact(self, artifact: Artifact, role: Role) -> None:
        """Log what the run has read or made: a version of an artifact for each digest, linked to this run.

        ``Run.use_artifact`` waits for the server, and refuses to work offline, as of wandb 0.31; nothing else that is
        public names an input. Recording an artifact to be used as soon as it is committed is how it declares a new one
        itself; offline, that is part of the log, too. Tests notice when either changes.
        """
        aliases = ["latest", artifact.digest[:VERSION_DIGITS]]
        with _kept_in(self._kept):
            version = self._version_of(artifact)
            if role == "output":
                self._run.log_artifact(version, aliases=aliases)
            else:
                self._run._log_artifact(version, aliases=aliases, is_user_created=True, use_after_commit=True)

    def flush(self) -> None:
        """W&B writes as it goes."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()

    def _version_of(self, artifact: Artifact) -> WandbArtifact:
        kind = TYPES.get(artifact.kind, artifact.kind)
        version = WandbArtifact(artifact.name, kind, metadata={"digest": artifact.digest, **artifact.facts})
        version.add_reference(artifact.reference, name=artifact.kind)
        for name, data in artifact.read_files().items():
            path = self._kept / "networks" / artifact.digest / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            version.add_file(str(path), name, policy="immutable", skip_cache=True)
        return version


def _settings() -> wandb.Settings:
    """Nothing is printed, and nothing is told of the machine, its user, or the code."""
    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        host="",
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """What W&B keeps for itself goes into this folder, and not into the home folder, which a pod may not have."""
    before = {name: os.environ.get(name) for name in KEPT}
    os.environ.update(dict.fromkeys(KEPT, str(folder)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def public_config(run: RunFile) -> dict[str, Any]:
    """The part of the run file that may leave the machine: not sources and storage, which name places."""
    sections = run.parts(lambda key: key.public)
    return {**sections.pop("data"), **sections}
