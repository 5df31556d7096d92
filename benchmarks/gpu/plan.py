"""Which sections run, in which order, and for how long. Pure: torch is not imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

USUAL_SECONDS = 240.0
"""``GPU_SECONDS`` unless given: the sections' own limits below are for it."""
TRAINING_SECONDS = 180.0
"""``TRAIN_SECONDS`` unless given; the training gets what the others leave as well."""
LEAST_SECONDS = 5.0
"""A section that could not even import torch and start CUDA is not started."""


@dataclass(frozen=True)
class Section:
    """One question, answered by ``run`` of a module in a process of its own."""

    name: str
    module: str
    title: str
    seconds: float
    """After which its process is killed, at the usual length of the whole."""
    own_time: bool = False
    """Whether it has the time that is left instead of a share of ``GPU_SECONDS``."""


HERE = "benchmarks.gpu.sections"
SECTIONS = (
    Section("ceilings", f"{HERE}.ceilings", "what the card can do at most", 20),
    Section("gradient", f"{HERE}.gradient_error", "meta-gradient against the CPU in float64", 40),
    Section("quality", f"{HERE}.fit_quality", "fits on the CPU and on the GPU", 45),
    Section("meta", f"{HERE}.meta_speed", "meta step beside the published-style code", 75),
    Section("fit", f"{HERE}.fit_speed", "fits beside the published procedure", 60),
    Section("profile", f"{HERE}.profiled", "launches, waits and kernels of one step", 25),
    Section("graphs", f"{HERE}.replays", "replayed and compiled steps against eager ones", 60),
    Section("ranks", f"{HERE}.process_groups", "DeepSpeed with NCCL, and two ranks with gloo", 60),
    Section("memory", f"{HERE}.memory_peaks", "memory at large latents", 45),
    Section("basis", f"{HERE}.basis_speed", "the basis field", 40),
    Section("training", f"{HERE}.paper_training", "training the paper-size network", 0, own_time=True),
)
"""Most important first: a run that is cut off has measured these."""


@dataclass(frozen=True)
class Job:
    """What the process of one section is told."""

    section: str
    run: str
    """Names this call of the command: results of one section are those of its last run."""
    device: str
    dry: bool
    seconds: float
    results: str
    """The file that results are appended to, a JSON object per line."""
    scratch: str
    """A folder that the sections of one call share, as for a network that one of them has trained."""
    data: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """Seconds for all sections but the training, and for the training."""

    seconds: float = USUAL_SECONDS
    training: float = TRAINING_SECONDS

    def allowed(self, section: Section, spent: float) -> float:
        """How long a section may take when so much time is spent; less than ``LEAST_SECONDS`` means not at all."""
        left = max(0.0, self.seconds - spent)
        if section.own_time:
            return self.training + left
        return min(section.seconds * max(1.0, self.seconds / USUAL_SECONDS), left)


def chosen(only: Sequence[str]) -> list[Section]:
    """The sections of these names, in our order; all without names. ValueError for a name that is none."""
    known = [section.name for section in SECTIONS]
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"there is no section {', '.join(unknown)}; there are {', '.join(known)}")
    return [section for section in SECTIONS if not only or section.name in only]
