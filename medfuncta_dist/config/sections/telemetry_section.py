"""The section ``telemetry`` of the run file: metrics and Weights & Biases."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from medfuncta_dist.config.keys import RESOURCES, Added
from medfuncta_dist.config.section import BARE_WORD, PositiveInt, Section


class Telemetry(Section):
    """Metrics. Pictures of scans leave the machine only when ``images`` is set."""

    MEANING: ClassVar = RESOURCES

    wandb: Annotated[Literal["off", "offline", "online", "auto"], BARE_WORD] = "auto"
    """``auto``: online when WANDB_API_KEY is set, offline otherwise."""
    project: str = "medfuncta-dist"
    """Weights & Biases project."""
    images: bool = False
    """Send pictures of reconstructions to Weights & Biases."""
    networks: Annotated[bool, Added(False)] = False
    """Send the shared network's two files to Weights & Biases. Without, it gets their digest and figures."""
    log_steps: PositiveInt = 10
    """Number of outer steps between log lines."""
