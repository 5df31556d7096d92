"""Which sections run, in which order, and for how long. Pure: torch is not imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

USUAL_SECONDS = 240.0
"""``GPU_SECONDS`` unless given."""
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
    """Its share of the usual time. When that is over, and what the sections before have left, its process is killed."""
    own_time: bool = False
    """Whether it has the time that is left instead of a share of ``GPU_SECONDS``."""


HERE = "benchmarks.gpu.sections"
SECTIONS = (
    Section("ceilings", f"{HERE}.ceilings", "what the card can do at most", 10),
    Section("gradient", f"{HERE}.gradient_error", "meta-gradient against the CPU in float64", 24),
    Section("quality", f"{HERE}.fit_quality", "fits on the CPU and on the GPU", 16),
    Section("meta", f"{HERE}.meta_speed", "meta step beside the published-style code", 48),
    Section("fit", f"{HERE}.fit_speed", "fits beside the published procedure", 44),
    Section("profile", f"{HERE}.profiled", "launches, waits and kernels of one step", 12),
    Section("graphs", f"{HERE}.replays", "replayed and compiled steps against eager ones", 18),
    Section("ranks", f"{HERE}.process_groups", "DeepSpeed with NCCL, and two ranks with gloo", 20),
    Section("memory", f"{HERE}.memory_peaks", "memory at large latents", 34),
    Section("basis", f"{HERE}.basis_speed", "the basis field", 14),
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

    def allowed(self, sections: Sequence[Section], number: int, spent: float) -> float:
        """How long the section of this number (from 0) may take when the others have spent so much time.

        Each has its share of the time, and what those before it have left of theirs; so none takes from those behind
        it. The training has what all have left. Less than ``LEAST_SECONDS`` means not at all.
        """
        if sections[number].own_time:
            return self.training + max(0.0, self.seconds - spent)
        shares = [0.0 if section.own_time else section.seconds for section in sections]
        return max(0.0, self.seconds * sum(shares[: number + 1]) / sum(shares) - spent)


def chosen(only: Sequence[str]) -> list[Section]:
    """The sections of these names, in our order; all without names. ValueError for a name that is none."""
    known = [section.name for section in SECTIONS]
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"there is no section {', '.join(unknown)}; there are {', '.join(known)}")
    return [section for section in SECTIONS if not only or section.name in only]
