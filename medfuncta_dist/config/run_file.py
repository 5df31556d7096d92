"""The run file as a model: every key, its type, its default, and the rules between keys.

Rules that need only the file are checked here; those that need the snapshot or the storage, in ``stages/preflight.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
DIGEST = re.compile(r"[0-9a-f]{64}")

PositiveInt = Annotated[int, Field(gt=0)]
NaturalInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Split = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Section(BaseModel):
    """A part of the run file: unknown keys are errors, values are never silently converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Intensity(Section):
    """How stored values map to [0, 1]: ``(value - low) / (high - low)``, clipped; kept with each scan, to be undone.

    ``auto`` takes the whole range of an 8-bit image and the 0-99.9 percentiles of anything else; ``range`` needs
    ``low`` and ``high`` in the scan's own units (for CT, Hounsfield units).
    """

    mode: Literal["auto", "dtype", "minmax", "percentile", "range"] = "auto"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Intensity:
        needed = self.mode in ("range", "percentile")
        if needed != (self.low is not None and self.high is not None):
            raise ValueError(f"mode '{self.mode}' {'needs' if needed else 'takes no'} low and high")
        if self.low is None or self.high is None:
            return self
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.mode == "percentile" and (self.low < 0 or self.high > 100):
            raise ValueError(f"percentiles lie in 0..100, got {self.low} and {self.high}")
        return self


class Slices(Section):
    """Pack a volume as 2D slices along an axis of its canonical (RAS+) orientation: 0 sagittal, 1 coronal, 2 axial."""

    axis: Annotated[int, Field(ge=0, le=2)] = 2
    min_foreground: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A slice whose share of values above 10 % of the intensity window is lower than this is not a scan."""


class Slabs(Section):
    """Hold out whole slabs of neighbouring slices; ``gap`` slices on each side of a slab join neither split.

    Neighbouring slices look alike, so holding out single slices would leak. Gap slices get the split ``gap``.
    """

    size: PositiveInt = 16
    period: Annotated[int, Field(ge=2)] = 4
    gap: NaturalInt = 2
    split: Split = "test"

    @model_validator(mode="after")
    def _room(self) -> Slabs:
        if 2 * self.gap >= self.size * (self.period - 1):
            raise ValueError("the gaps leave no training slices: lower gap, or raise size or period")
        return self


class Data(Section):
    """Where scans come from and what shape they are packed in."""

    source: str | list[str] | None = None
    splits: dict[Split, str | list[str]] | None = None
    """Sources by split, where the splits are given as files; excludes ``source``."""
    reader: str | None = None
    """Default: by suffix."""
    shape: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1, max_length=3)]
    channels: PositiveInt = 1
    dataset: str | None = None
    """Name of the data set in storage. Default: the run's name."""
    snapshot: str | None = None
    """Digest of an existing snapshot to use. Default: the newest of ``dataset``."""
    intensity: Intensity = Intensity()
    aspect: Literal["pad", "crop", "stretch"] = "pad"
    """How a field of view of another aspect ratio is brought to ``shape``."""
    slices: Slices | None = None
    slabs: Slabs | None = None
    fractions: dict[Split, Ratio] = {"train": 0.8, "val": 0.1, "test": 0.1}
    """Share of scans a split, drawn by key, where neither the source nor ``slabs`` gives splits."""
    shard_scans: PositiveInt = 1024
    shard_megabytes: PositiveInt = 128
    sources_per_task: PositiveInt = 256
    private: str | None = None
    """Folder for the salt and the key-to-path mapping. Default: ~/.medfuncta/<dataset>. Never inside storage."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of all scans found that may be quarantined before a stage fails."""

    @field_validator("snapshot")
    @classmethod
    def _digest(cls, value: str | None) -> str | None:
        if value is not None and not DIGEST.fullmatch(value):
            raise ValueError("expected a dataset digest: 64 lowercase hex digits")
        return value

    @field_validator("source", "splits")
    @classmethod
    def _no_shell(cls, value: Any) -> Any:
        values = value.values() if isinstance(value, dict) else [value]
        flat = [u for v in values for u in (v if isinstance(v, list) else [v])]
        if any(u is not None and (u == "" or u.startswith("pipe:") or "\n" in u) for u in flat):
            raise ValueError("expected a local path or an s3:// URI, or a glob of either")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        given = [n for n in ("source", "splits", "snapshot") if getattr(self, n) is not None]
        if not given:
            raise ValueError("give source (where the scans are), splits, or snapshot (an existing data set)")
        if self.source is not None and self.splits is not None:
            raise ValueError("give source or splits, not both")
        if self.slices is not None and len(self.shape) != 2:
            raise ValueError(f"slices are two-dimensional, but shape has {len(self.shape)} axes")
        if self.slabs is not None and self.slices is None:
            raise ValueError("slabs need slices")
        if abs(sum(self.fractions.values()) - 1) > 1e-6 or "train" not in self.fractions:
            raise ValueError(f"fractions must contain train and sum to 1, got {self.fractions}")
        return self

    @property
    def points(self) -> int:
        """Number of coordinates of one scan."""
        total = 1
        for n in self.shape:
            total *= n
        return total


class FieldSection(Section):
    """The latent-modulated SIREN. Either a linear ω schedule (two ends) or the list of all K-1 sine layers' ω."""

    layers: Annotated[int, Field(ge=3)] = 15
    hidden: PositiveInt = 256
    latent: PositiveInt = 2048
    omega_first: PositiveFloat = 20.0
    omega_last: PositiveFloat = 400.0
    omegas: list[PositiveFloat] | None = None
    residual: bool = True
    modulate_first: bool = False

    @model_validator(mode="after")
    def _omegas(self) -> FieldSection:
        if self.omegas is not None and len(self.omegas) != self.layers - 1:
            raise ValueError(f"omegas has {len(self.omegas)} entries, expected layers - 1 = {self.layers - 1}")
        return self


class Meta(Section):
    """The inner loop."""

    inner_steps: PositiveInt = 10
    inner_rate: PositiveFloat = 1e-2
    selection_ratio: Ratio = 0.25


class Train(Section):
    """The outer loop. ``batch`` is global: the number of scans of one outer step over all workers."""

    batch: PositiveInt = 24
    steps: PositiveInt = 250_000
    rate: PositiveFloat = 3e-6
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: NaturalInt = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: PositiveFloat | None = 1.0
    seed: NaturalInt = 0
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    shuffle_window: PositiveInt = 4096
    checkpoint_steps: PositiveInt = 1000
    checkpoint_minutes: PositiveFloat = 10.0
    keep_checkpoints: Annotated[int, Field(ge=2)] = 3
    validate_steps: PositiveInt = 1000
    validate_scans: PositiveInt = 64
    max_failures: NaturalInt = 3
    """Worker failures after which a run gives up. Preemptions do not count."""


class Fit(Section):
    """Latents for every scan, the shared network frozen."""

    steps: PositiveInt = 20
    rate: PositiveFloat | None = None
    """Default: ``meta.inner_rate``."""
    selection_ratio: Ratio = 1.0
    batch: PositiveInt = 64
    scans_per_task: PositiveInt = 1024
    min_psnr: float = 20.0
    """A scan reconstructed worse than this (dB) is stored and flagged."""
    storage_type: Literal["float32", "float16"] = "float32"
    splits: list[Split] | None = None
    """Default: every split of the snapshot."""


class Evaluate(Section):
    """The report."""

    split: Split = "test"
    pictures: NaturalInt = 6


class Cluster(Section):
    """Resources. None of these change what is computed, except through float rounding."""

    workers: PositiveInt = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    cpus_per_worker: PositiveFloat = 1
    threads: PositiveInt = 1
    """Compute threads a worker. Workers x threads should not exceed the cores."""
    window: PositiveInt | None = None
    """Pack and fit tasks in flight. Default: twice the workers."""
    cache: str | None = None
    """Folder on each node for verified shards. Default: <temporary folder>/medfuncta-cache."""
    cache_gigabytes: PositiveFloat = 20.0


class Telemetry(Section):
    """Metrics. Pictures of scans leave the machine only when ``images`` is set."""

    wandb: Literal["off", "offline", "online", "auto"] = "auto"
    """``auto``: online when WANDB_API_KEY is set, offline otherwise."""
    project: str = "medfuncta-dist"
    images: bool = False
    log_steps: PositiveInt = 10


class RunFile(Section):
    """One run, whole. ``preset`` is already merged in (see ``config/load.py``) and kept for the record."""

    name: str
    storage: Annotated[str, Field(min_length=1)]
    preset: Literal["medfuncta-1d", "medfuncta-2d", "medfuncta-3d"] | None = None
    data: Data
    field: FieldSection = FieldSection()
    meta: Meta = Meta()
    train: Train = Train()
    fit: Fit = Fit()
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()
    telemetry: Telemetry = Telemetry()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("expected at most 40 lowercase letters, digits and dashes, starting with a letter")
        return value

    @model_validator(mode="after")
    def _workers_fit_batch(self) -> RunFile:
        if self.cluster.workers > self.train.batch:
            raise ValueError(
                f"cluster.workers is {self.cluster.workers}, but a global batch of train.batch = {self.train.batch} "
                "scans can occupy no more workers than scans: lower cluster.workers or raise train.batch"
            )
        return self

    @property
    def dataset(self) -> str:
        """Name of the data set in storage."""
        return self.data.dataset or self.name

    @property
    def fit_rate(self) -> float:
        """Step size of fitting."""
        return self.fit.rate if self.fit.rate is not None else self.meta.inner_rate

    def digest(self, *sections: str) -> str:
        """SHA-256 (hex) over the canonical JSON of the named sections; all of the file when none is named."""
        whole = self.model_dump(mode="json")
        part = {name: whole[name] for name in sections} if sections else whole
        text = json.dumps(part, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
