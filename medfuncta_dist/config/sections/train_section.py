"""The section ``train`` of the run file: the outer loop, its checkpoints and its limits for failures."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from medfuncta_dist.config.keys import FIT_DIGEST, FREE, Added, Before, Key, Meaning
from medfuncta_dist.config.section import NAME, NaturalFloat, NaturalInt, PositiveFloat, PositiveInt, Section
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.storage.object_store import normal_root

ZeroStage = Annotated[int, Field(ge=0, le=3)]
PRIVATE = Key(public=False)
LARGEST_AFFINE = 0.3
"""Below 1/3 no map of up to three axes can mirror or collapse a scan: its diagonal outweighs the rest of each row."""


def _run_or_folder(value: str) -> str:
    """The name of a run as it is, a folder absolute here and now."""
    if NAME.fullmatch(value):
        return value
    if "/" not in value:
        raise ValueError("expected the name of a run, or a folder: s3://bucket/prefix/runs/NAME, ./runs/NAME")
    try:
        return normal_root(value)
    except RunFileError as error:
        raise ValueError(f"{error.what}; {error.do}") from None


StartFrom = Annotated[str, AfterValidator(_run_or_folder)]


class Augment(Section):
    """Change training scans at random, anew in each epoch; held-out scans and fitting see scans as they are. Useful
    where scans are few. With all amounts at 0, scans are not changed.
    """

    flip: list[NaturalInt] = Field(default=[])
    """Axes of data.shape, from 0, along each of which a scan is mirrored half of the time. List only axes along which
    a mirrored scan could be a scan: in a chest X-ray, the heart would change sides."""
    affine: Annotated[float, Field(ge=0, le=LARGEST_AFFINE)] = 0.0
    """Largest change of each number of the affine matrix: stretches, shears and rotations together. Coordinates are
    those of the field, where each axis has the same length; outside a scan its edge is continued."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift along each axis, in fields of view."""
    gain: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest relative change of contrast: values, from 0 to 1, are multiplied by 1 - gain to 1 + gain and clipped."""
    offset: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest change of brightness, added to all values of a scan before they are clipped."""

    @field_validator("flip")
    @classmethod
    def _each_once(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("expected each axis at most once")
        return value


class Train(Section):
    """The outer loop. ``batch`` is global: the number of scans per outer step over all workers."""

    MEANING: ClassVar = Meaning(public=True)

    batch: PositiveInt = 24
    """Scans per outer step, over all workers."""
    steps: PositiveInt = 250_000
    """Outer steps. A run may get more later if its schedule does not end with them: see schedule_steps."""
    optimizer: Annotated[Literal["adamw", "muon"], Before("adamw")] = "adamw"
    """``adamw``: as published. ``muon``: Muon for the hidden matrices (its step changes all directions equally), AdamW
    for everything else. Better results per outer step at its best rate; requires zero_stage 0."""
    rate: PositiveFloat = 6e-5
    """β, AdamW's largest step size; Muon's steps are equally large. With rate_by_omega, the default changes all phases
    as fast as the published 3e-6 changes those of ω = 400; networks with ω ≤ 200 train with 5e-4 to 1e-3. Muon was
    best at the upper end of this range, and at twice the default."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Step size after the warm-up; cosine ends at 0, after schedule_steps."""
    schedule_steps: Annotated[PositiveInt | None, Added(None)] = None
    """Outer steps after which a cosine schedule ends. Default: steps. It may not change within a run, but while it
    stays the same, steps may be raised, or lowered to no fewer than were taken: to the bit, the run is then one that
    had those steps from the beginning. Steps beyond it have the schedule's final step size, which is 0 for cosine: they
    change nothing. So set it, when a run begins, to the most steps that you may want."""
    warmup_steps: NaturalInt = 0
    """Outer steps over which the step size rises linearly from 0."""
    rate_by_omega: bool = True
    """Divide each layer's step size by the ratio of its ω to the first layer's, so that the phases of all layers
    change equally fast."""
    weight_decay: NaturalFloat = 0.0
    """Weight decay, decoupled as in AdamW."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the whole gradient; null for no clipping."""
    start_from: Annotated[StartFrom | None, Added(None), PRIVATE] = None
    """Begin with the trained network of another run instead of a drawn one: the name of a run in this storage, or the
    folder of one elsewhere (s3://bucket/prefix/runs/NAME, or a local folder, with a slash). It must have the same
    architecture: the section field, number of axes and data.channels; of a basis field, latent may differ. Optimiser,
    schedule and sample order begin anew. The network is copied into the run before the first step, and is not needed
    elsewhere from then on. ``fork`` writes such a run file."""
    seed: Annotated[NaturalInt, FIT_DIGEST] = 0
    """Seed of the initial network, the sample order, the context sets and augmentation."""
    zero_stage: Annotated[ZeroStage | None, FREE] = None
    """DeepSpeed ZeRO stage. Default: 0 with muon, else 1."""
    shuffle_window: PositiveInt = 4096
    """Number of scans within which the order of one stream is shuffled."""
    patches_per_scan: Annotated[PositiveInt, Added(64)] = 64
    """With ``data.patches``: patches of each scan that an epoch draws, each at a random place of the scan, anew in each
    epoch. ``batch`` then counts patches, and so does ``shuffle_window``."""
    augment: Annotated[Augment | None, Added(None)] = None
    """Change training scans at random. Default: null, scans as they are."""
    checkpoint_steps: Annotated[PositiveInt | None, FREE] = None
    """Largest number of outer steps between checkpoints. If neither this nor checkpoint_minutes is set, the interval is
    computed from the cost of a checkpoint and the rate of interruptions (Young's formula)."""
    checkpoint_minutes: Annotated[PositiveFloat | None, FREE] = None
    """Largest number of minutes between checkpoints; up to two more while the previous upload is not finished."""
    node_hours_between_failures: Annotated[PositiveFloat, FREE] = 6.0
    """Expected hours between failures of a node. Used for the checkpoint interval until the run has had failures."""
    keep_checkpoints: Annotated[int, Field(ge=2), FREE] = 3
    """Newest checkpoints to keep."""
    keep_checkpoint_hours: Annotated[PositiveFloat | None, FREE] = None
    """Hours after which a checkpoint is deleted, even one of the newest; the last good one is never deleted."""
    validate_steps: PositiveInt = 1000
    """Outer steps between measurements of held-out PSNR."""
    validate_scans: PositiveInt = 64
    """Held-out scans per measurement."""
    max_failures: Annotated[NaturalInt, FREE] = 3
    """Worker failures after which a run gives up. Preemptions do not count."""
    max_preemptions: Annotated[NaturalInt | None, FREE] = None
    """Preemptions after which a run gives up; it can be resumed. Default: no limit."""
    hang_timeout: Annotated[float, Field(ge=2), FREE] = 600.0
    """Seconds without progress after which a worker is named in the log and killed, and the workers are restarted.
    Start-up, the first step and uploads may take half an hour. Must be longer than the longest step."""

    @model_validator(mode="after")
    def _whole_matrices(self) -> Train:
        if self.optimizer == "muon" and self.zero_stage:
            raise ValueError(
                f"optimizer muon needs whole matrices, but zero_stage {self.zero_stage} partitions them:  "
                "set train.zero_stage to 0 (each worker then holds the whole state, 0.1 GB at 15 x 256 with a latent "
                "of 2048), or train.optimizer to adamw"
            )
        return self

    @property
    def horizon(self) -> int:
        """Outer steps after which the schedule ends."""
        return self.schedule_steps or self.steps

    @property
    def idle_steps(self) -> int:
        """Last outer steps of which the step size is 0."""
        return max(0, self.steps - self.horizon) if self.schedule == "cosine" else 0

    @property
    def stage(self) -> int:
        """The ZeRO stage: as given, or the highest by default that the optimiser can do with."""
        if self.zero_stage is not None:
            return self.zero_stage
        return 0 if self.optimizer == "muon" else 1
