"""Weights & Biases as a sink: offline unless a key is set, and without data about the machine or its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.telemetry_section import Telemetry


def mode_of(telemetry: Telemetry, key_is_set: bool) -> str:
    """``off``, ``offline`` or ``online``. ``auto`` goes online exactly when a key is set."""
    if telemetry.wandb == "auto":
        return "online" if key_is_set else "offline"
    return telemetry.wandb


class WandbSink:
    """One W&B run per run name; attempts continue it. ``folder`` is local: an offline run stays there."""

    def __init__(self, run: RunFile, attempt: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        online = mode_of(run.telemetry, bool(os.environ.get("WANDB_API_KEY"))) == "online"
        self._run = wandb.init(
            project=run.telemetry.project,
            name=run.name,
            # Online, all attempts are one curve; an offline run has no server that could continue it.
            id=run.name if online else f"{run.name}-{attempt}",
            resume="allow" if online else None,
            mode="online" if online else "offline",
            dir=folder,
            config=public_config(run),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
            ),
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Numbers of one outer step."""
        self._run.log(metrics, step=step)

    def event(self, name: str, **fields: Any) -> None:
        """The last event of each name is kept in the run's summary."""
        self._run.summary[f"event/{name}"] = fields

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """Log a picture; the caller has checked ``telemetry.images``."""
        self._run.log({name: wandb.Image(np.asarray(array, dtype=float) * 255)}, step=step)

    def flush(self) -> None:
        """W&B writes as it goes."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def public_config(run: RunFile) -> dict[str, Any]:
    """The part of the run file that may leave the machine: not sources and storage, which name places."""
    sections = run.parts(lambda key: key.public)
    return {**sections.pop("data"), **sections}
