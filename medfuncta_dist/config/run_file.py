"""The run file as a model: every key, its type, its default, and the rules between keys.

Rules that need only the file are checked here; those that need the snapshot or the storage, in ``stages/preflight.py``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from medfuncta_dist.config.kubernetes import Kubernetes
from medfuncta_dist.config.section import NaturalInt, PositiveFloat, PositiveInt, Section
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import normal_root

NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
DIGEST = re.compile(r"[0-9a-f]{64}")
INNER_RATE_TIMES_OMEGA_SQUARED = 2000.0
"""An inner step stays stable below 2 / curvature, and curvature grows with ω² (docs/method.md, 5). Measured: see
benchmarks/outer_steps.py."""


LARGEST_GAUSS_NEWTON = 4096
"""Latent size: the curvature of one scan is then 64 MiB."""
LARGEST_JACOBIAN = 2 * 2**30
"""Bytes."""


def _named(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("expected at most 40 lowercase letters, digits and dashes, starting with a letter")
    return value


def _root(value: str) -> str:
    """Absolute here and now: tasks run in other working directories, where a relative path is another place."""
    try:
        return normal_root(value)
    except RunFileError as error:
        raise ValueError(f"{error.what}; {error.do}") from None


def _word(value: Any) -> Any:
    """YAML 1.1 reads a bare on or off as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Name = Annotated[str, AfterValidator(_named)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Split = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Intensity(Section):
    """How stored values map to [0, 1]: ``(value - low) / (high - low)``, clipped; kept with each scan, to be undone.

    ``auto`` takes the whole range of an 8-bit image and the 0-99.9 percentiles of anything else; ``range`` needs
    ``low`` and ``high`` in the scan's own units (for CT, Hounsfield units).
    """

    mode: Literal["auto", "dtype", "minmax", "percentile", "range"] = "auto"
    """Where low and high come from."""
    low: float | None = None
    """Lower end: a value (range) or a percentile (percentile)."""
    high: float | None = None
    """Upper end, likewise."""

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
    """0 sagittal, 1 coronal, 2 axial."""
    min_foreground: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A slice whose share of values above 10 % of the intensity window is lower than this is not a scan."""


class Slabs(Section):
    """Hold out whole slabs of neighbouring slices; ``gap`` slices on each side of a slab join neither split.

    Neighbouring slices look alike, so holding out single slices would leak. Gap slices get the split ``gap``.
    """

    size: PositiveInt = 16
    """Slices a slab."""
    period: Annotated[int, Field(ge=2)] = 4
    """One slab of every `period` is held out."""
    gap: NaturalInt = 2
    """Slices on each side of a held-out slab that join neither split."""
    split: Split = "test"
    """The split that held-out slabs go to."""

    @model_validator(mode="after")
    def _room(self) -> Slabs:
        if self.split in ("train", "gap"):
            raise ValueError(f"split is '{self.split}', but held-out slabs must go to a split of their own")
        if 2 * self.gap >= self.size * (self.period - 1):
            raise ValueError("the gaps leave no training slices: lower gap, or raise size or period")
        return self


class Data(Section):
    """Where scans come from and what shape they are packed in."""

    source: str | list[str] | None = None
    """Where the scans are: a path, an s3:// URI, a folder, a glob, or a list of these."""
    splits: dict[Split, str | list[str]] | None = None
    """Sources by split, where the splits are given as files; excludes ``source``."""
    reader: str | None = None
    """Default: by suffix."""
    shape: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1, max_length=3)]
    """Points an axis that every scan is brought to: one, two or three axes."""
    channels: PositiveInt = 1
    """Values a point: 1 grey, 3 colour."""
    dataset: Name | None = None
    """Name of the data set in storage. Default: the run's name."""
    snapshot: str | None = None
    """Digest of an existing snapshot to use. Default: the newest of ``dataset``."""
    intensity: Intensity = Intensity()
    """How stored values map to [0, 1]."""
    aspect: Literal["pad", "crop", "stretch"] = "pad"
    """How a field of view of another aspect ratio is brought to ``shape``."""
    slices: Slices | None = None
    """Pack volumes as slices."""
    slabs: Slabs | None = None
    """Hold out slabs of slices."""
    fractions: dict[Split, Ratio] = Field(default={"train": 0.8, "val": 0.1, "test": 0.1})
    """Share of scans a split, drawn by key, where neither the source nor ``slabs`` gives splits."""
    shard_scans: PositiveInt = 1024
    """Scans a shard, at most."""
    shard_megabytes: PositiveInt = 128
    """Size of a shard, at most (MiB, of array data)."""
    sources_per_task: PositiveInt = 256
    """Files that one pack task reads."""
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
        if not flat or any(u is not None and (u == "" or u.startswith("pipe:") or "\n" in u) for u in flat):
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
    """K, the last (linear) layer included."""
    hidden: PositiveInt = 256
    """L, the width of every hidden layer."""
    latent: PositiveInt = 2048
    """P, the size of a scan's latent."""
    omega_first: PositiveFloat = 20.0
    """ω of the first layer."""
    omega_last: PositiveFloat = 400.0
    """ω that the schedule reaches at layer K; it rises linearly."""
    omegas: list[PositiveFloat] | None = None
    """ω of every sine layer, in place of the two ends."""
    residual: bool = True
    """Add each sine layer's input to its output (the public code does, the paper's formula does not)."""
    modulate_first: bool = False
    """Let the latent shift the first layer too (the public code does)."""

    @model_validator(mode="after")
    def _omegas(self) -> FieldSection:
        if self.omegas is not None and len(self.omegas) != self.layers - 1:
            raise ValueError(f"omegas has {len(self.omegas)} entries, expected layers - 1 = {self.layers - 1}")
        return self


class Meta(Section):
    """The inner loop."""

    inner_steps: PositiveInt = 10
    """G, inner steps an outer step."""
    inner_rate: PositiveFloat | None = None
    """α, step size of the inner loop; where rates are learned, what they start from. Default: 2000 / ω² for the largest
    ω of the field (0.31 at 80, 0.05 at 200), near the largest that trains."""
    rate_policy: Literal["scalar", "layer", "learned"] = "scalar"
    """``scalar``: inner_rate at every step, as published. ``layer``: inner_rate at the first modulated layer, falling
    as 1/ω² with depth. ``learned``: one rate an inner step, trained with the network and stored in it."""
    selection_ratio: Ratio = 0.25
    """γ, share of the coordinates in each inner step's context set."""
    chunk_points: PositiveInt | None = None
    """Coordinates that one sweep takes at once. With ``chunk_scans`` it bounds memory and decides the last bits.
    Default: chosen when the run starts, from the memory that is free, and kept in its run.yaml."""
    chunk_scans: PositiveInt | None = None
    """Scans that one sweep takes at once, likewise."""
    products: Literal["onednn", "torch"] | None = None
    """The library that multiplies matrices: oneDNN asked directly (CPU only), or torch's own. It decides the last bits.
    Default: the faster one, chosen when the run first computes, and kept in its run.yaml."""
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)] = "auto"
    """Sweeps through torch.compile, with CUDA graphs on a GPU. ``auto``: on a GPU only. It is tried once when the run
    first computes: where results differ, nothing is gained or a compiler is missing, the run computes without, and says
    so."""
    compiled: bool | None = None
    """What came of ``compile``, kept in the run's run.yaml. Given by hand, it is not tried."""


class Train(Section):
    """The outer loop. ``batch`` is global: the number of scans of one outer step over all workers."""

    batch: PositiveInt = 24
    """Scans of one outer step, over all workers."""
    steps: PositiveInt = 250_000
    """Outer steps."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``adamw``: as published. ``muon``: hidden matrices step by Muon, whose step turns all directions alike, all else
    by AdamW. More for each outer step at its best rate; needs whole matrices, so zero_stage 0."""
    rate: PositiveFloat = 6e-5
    """β, AdamW's step size at its peak; Muon steps as far. With rate_by_omega the default turns all phases as fast as
    the published 3e-6 turns those of ω = 400; networks of ω ≤ 200 train with 5e-4 to 1e-3. Muon was best at the upper
    end, and at twice the default."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the step size goes on after the warm-up; cosine ends at 0."""
    warmup_steps: NaturalInt = 0
    """Outer steps over which the step size rises linearly from 0."""
    rate_by_omega: bool = True
    """Divide each layer's step size by its ω, as a share of the first's: steeper layers turn no faster than others."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay, decoupled as AdamW has it."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the whole gradient; null for no clipping."""
    seed: NaturalInt = 0
    """Seed of the initial network, the sample order and the context sets."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """DeepSpeed ZeRO stage. May change between restarts. Default: 0 with muon, else 1."""
    shuffle_window: PositiveInt = 4096
    """Scans among which the order of one stream is shuffled."""
    checkpoint_steps: PositiveInt | None = None
    """Outer steps between checkpoints, at most. Where neither this nor checkpoint_minutes is set, the interval follows
    from what a checkpoint costs and how often this run is interrupted (Young's formula)."""
    checkpoint_minutes: PositiveFloat | None = None
    """Minutes between checkpoints, likewise; two more where storage is slow to take the one before."""
    node_hours_between_failures: PositiveFloat = 6.0
    """Hours that a node is expected to last, for choosing the interval, until the run itself has shown better."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 3
    """Newest checkpoints to keep."""
    keep_checkpoint_hours: PositiveFloat | None = None
    """Hours after which a checkpoint goes even if it is among these; never the last good one."""
    validate_steps: PositiveInt = 1000
    """Outer steps between measurements of held-out PSNR."""
    validate_scans: PositiveInt = 64
    """Held-out scans that are fitted for one measurement."""
    max_failures: NaturalInt = 3
    """Worker failures after which a run gives up. Preemptions do not count."""
    max_preemptions: NaturalInt | None = None
    """Preemptions after which a run gives up, resumable. Default: it never does."""
    hang_timeout: Annotated[float, Field(ge=2)] = 600.0
    """Seconds without a sign of progress from one worker after which it is named and killed, and the workers start
    again. Start-up, the first step and an upload have half an hour. Must be longer than the longest step."""

    @model_validator(mode="after")
    def _whole_matrices(self) -> Train:
        if self.optimizer == "muon" and self.zero_stage:
            raise ValueError(
                f"optimizer muon steps whole matrices, and zero_stage {self.zero_stage} divides them among workers: "
                "set train.zero_stage to 0 (each worker then holds the whole state, 0.1 GB at 15 x 256 with a latent "
                "of 2048), or train.optimizer to adamw"
            )
        return self

    @property
    def stage(self) -> int:
        """The ZeRO stage: as given, or the highest by default that the optimiser can do with."""
        if self.zero_stage is not None:
            return self.zero_stage
        return 0 if self.optimizer == "muon" else 1


class Fit(Section):
    """Latents for every scan, the shared network frozen."""

    method: Literal["sgd", "momentum", "gauss-newton"] = "gauss-newton"
    """``sgd``: plain gradient steps, as published. ``momentum``: with a heavy ball. ``gauss-newton``: each scan's own
    curvature decides direction and length of its steps (Levenberg-Marquardt): better latents in a fifth of the
    steps."""
    steps: PositiveInt = 10
    """H, steps from φ = 0."""
    rate: PositiveFloat | None = None
    """Step size of sgd and momentum. Default: the network's learned rates where it has them, else
    ``meta.inner_rate``."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of each step that the next one repeats (momentum)."""
    damping: PositiveFloat = 1.0
    """λ that gauss-newton begins with, relative to a scan's mean curvature. Each scan's own then follows how well its
    steps keep what they promise."""
    curvature_ratio: Ratio = 0.309
    """Share of a step's coordinates, evenly spread, that gauss-newton takes its curvature from. Not a simple fraction:
    points a whole number apart would lie in columns."""
    selection_ratio: Ratio = 1.0
    """γ while fitting; 1 uses every coordinate. gauss-newton sees the same evenly spread ones at every step, the others
    draw them anew."""
    full_steps: NaturalInt = 0
    """The last steps, which use every coordinate whatever selection_ratio is."""
    closed_form: bool = True
    """Take the first step from the field's Jacobian at φ = 0, which is the same for all scans: it sees every coordinate
    at almost no cost. Needs the Jacobian in memory."""
    rescale: Ratio | None = None
    """Multiply each scan's step by the ratio of two gradients' sizes, one of them on this share of the coordinates, as
    the published code does. Null: do not."""
    target_psnr: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """A scan this good (dB) moves no further."""
    batch: PositiveInt = 256
    """Scans fitted at once."""
    scans_per_task: PositiveInt = 1024
    """Scans of one Ray task and one table part."""
    min_psnr: float = 20.0
    """A scan reconstructed worse than this (dB) is stored and flagged."""
    storage_type: Literal["float32", "float16", "int8"] = "float32"
    """Type of stored latents; int8 has one scale a scan. PSNR in the table is the stored latent's."""
    splits: list[Split] | None = None
    """Default: every split of the snapshot."""

    @model_validator(mode="after")
    def _steps(self) -> Fit:
        if self.full_steps > self.steps:
            raise ValueError(f"full_steps is {self.full_steps}, more than all of the {self.steps} steps")
        return self


class Evaluate(Section):
    """The report."""

    split: Split = "test"
    """The split that pictures and headline numbers come from."""
    pictures: NaturalInt = 6
    """Scans shown in the report."""
    note: str | None = None
    """A remark shown at the top of the report: what its reader should know of these scans."""


class Cluster(Section):
    """Resources. None of these change what is computed, except through float rounding."""

    workers: PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = 1
    """Training workers; at most train.batch. Also fit tasks at once. A range, as [2, 8]: training takes as many as the
    cluster has room for, and goes on with fewer, or more, when nodes go or come."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs a worker or fit task."""
    cpus_per_worker: PositiveFloat = 1
    """CPUs a worker or task, as Ray counts them."""
    threads: PositiveInt = 1
    """Compute threads a worker. Workers x threads should not exceed the cores."""
    window: PositiveInt | None = None
    """Pack and fit tasks in flight. Default: twice the workers."""
    race_stragglers: bool = True
    """When no pack or fit task is left to start, give each one that takes four times the median a second copy. The
    first to commit counts; both would write the same."""
    cache: str | None = None
    """Folder on each node for verified shards. Default: <temporary folder>/medfuncta-cache-<user id>."""
    cache_gigabytes: PositiveFloat = 20.0
    """Size of the cache, at most; the longest unused shards go first."""
    lease_seconds: Annotated[float, Field(ge=1, le=86_400)] = 60
    """A driver of which nothing is heard for so long may be replaced. Heartbeats come four times as often."""

    @field_validator("workers")
    @classmethod
    def _range(cls, value: int | list[int]) -> int | list[int]:
        if isinstance(value, list) and value[0] > value[1]:
            raise ValueError(f"a range of workers goes from the fewest to the most, got {value}")
        return value

    @property
    def most_workers(self) -> int:
        """The number of workers, or the upper end of its range."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def fewest_workers(self) -> int:
        """The number of workers, or the lower end of its range."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]


class Telemetry(Section):
    """Metrics. Pictures of scans leave the machine only when ``images`` is set."""

    wandb: Annotated[Literal["off", "offline", "online", "auto"], BeforeValidator(_word)] = "auto"
    """``auto``: online when WANDB_API_KEY is set, offline otherwise."""
    project: str = "medfuncta-dist"
    """Weights & Biases project."""
    images: bool = False
    """Send pictures of reconstructions to Weights & Biases."""
    log_steps: PositiveInt = 10
    """Outer steps between log lines."""


class RunFile(Section):
    """One run, whole. ``preset`` is already merged in (see ``config/load.py``) and kept for the record."""

    name: Name
    """The run's durable identity: lowercase letters, digits and dashes, at most 40."""
    storage: Annotated[str, Field(min_length=1), AfterValidator(_root)]
    """Root of everything the run writes: a local folder or s3://bucket/prefix."""
    preset: Literal["medfuncta-1d", "medfuncta-2d", "medfuncta-3d"] | None = None
    """Settings of the paper to start from."""
    format_version: Literal[1] = 1
    """Version of the run file's format; written into the copy that is kept with a run."""
    data: Data
    """Where scans come from."""
    field: FieldSection = FieldSection()
    """The shared network."""
    meta: Meta = Meta()
    """The inner loop."""
    train: Train = Train()
    """The outer loop."""
    fit: Fit = Fit()
    """Fitting."""
    evaluate: Evaluate = Evaluate()
    """The report."""
    cluster: Cluster = Cluster()
    """Resources."""
    kubernetes: Kubernetes = Kubernetes()
    """Submitted jobs."""
    telemetry: Telemetry = Telemetry()
    """Metrics."""

    @model_validator(mode="after")
    def _preset_fits_shape(self) -> RunFile:
        axes = len(self.data.shape)
        if self.preset is not None and self.preset != f"medfuncta-{axes}d":
            raise ValueError(f"preset {self.preset} is for other scans: data.shape has {axes} axes, {self.data.shape}")
        return self

    @model_validator(mode="after")
    def _workers_fit_batch(self) -> RunFile:
        if self.cluster.most_workers > self.train.batch:
            raise ValueError(
                f"cluster.workers is {self.cluster.most_workers}, but a global batch of train.batch = "
                f"{self.train.batch} scans can occupy no more workers than scans: lower cluster.workers or raise "
                "train.batch"
            )
        return self

    @model_validator(mode="after")
    def _fit_in_memory(self) -> RunFile:
        if self.fit.method == "gauss-newton" and self.field.latent > LARGEST_GAUSS_NEWTON:
            raise ValueError(
                f"fit.method gauss-newton needs field.latent² numbers a scan: field.latent is {self.field.latent}, "
                f"at most {LARGEST_GAUSS_NEWTON} is supported; set fit.method to sgd or momentum"
            )
        jacobian = 4 * self.data.points * self.data.channels * (self.field.layers - 1) * self.field.hidden
        if self.fit.closed_form and jacobian > LARGEST_JACOBIAN:
            raise ValueError(
                f"fit.closed_form keeps a Jacobian of {jacobian / 2**30:.1f} GiB in memory at this data.shape, at most "
                f"{LARGEST_JACOBIAN / 2**30:.0f} GiB are allowed; set fit.closed_form to false"
            )
        return self

    @property
    def dataset(self) -> str:
        """Name of the data set in storage."""
        return self.data.dataset or self.name

    @property
    def inner_rate(self) -> float:
        """α: as given, or small enough for the field's largest ω."""
        if self.meta.inner_rate is not None:
            return self.meta.inner_rate
        return INNER_RATE_TIMES_OMEGA_SQUARED / max(self.field.omegas or [self.field.omega_last]) ** 2

    @property
    def fit_rate(self) -> float:
        """Step size of fitting."""
        return self.fit.rate if self.fit.rate is not None else self.inner_rate

    def digest(self, *sections: str) -> str:
        """SHA-256 (hex) over the canonical JSON of the named sections; all of the file when none is named."""
        whole = self.model_dump(mode="json")
        part = {name: whole[name] for name in sections} if sections else whole
        return digest_json(part)
