"""The section ``train`` of the run file: the outer loop, its checkpoints and its patience."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from medfuncta_dist.config.keys import FIT_DIGEST, FREE, Before, Meaning
from medfuncta_dist.config.section import NaturalFloat, NaturalInt, PositiveFloat, PositiveInt, Section

ZeroStage = Annotated[int, Field(ge=0, le=3)]


class Train(Section):
    """The outer loop. ``batch`` is global: the number of scans per outer step over all workers."""

    MEANING: ClassVar = Meaning(public=True)

    batch: PositiveInt = 24
    """Scans per outer step, over all workers."""
    steps: PositiveInt = 250_000
    """Outer steps."""
    optimizer: Annotated[Literal["adamw", "muon"], Before("adamw")] = "adamw"
    """``adamw``: as published. ``muon``: hidden matrices step by Muon, whose step turns all directions alike, all else
    by AdamW. It reaches more per outer step at its best rate; needs whole matrices, so zero_stage 0."""
    rate: PositiveFloat = 6e-5
    """β, AdamW's step size at its peak; Muon steps as far. With rate_by_omega the default turns all phases as fast as
    the published 3e-6 turns those of ω = 400; networks of ω ≤ 200 train with 5e-4 to 1e-3. Muon was best at the upper
    end, and at twice the default."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the step size goes on after the warm-up; cosine ends at 0."""
    warmup_steps: NaturalInt = 0
    """Outer steps over which the step size rises linearly from 0."""
    rate_by_omega: bool = True
    """Divide each layer's step size by the ratio of its ω to the first layer's: steeper layers turn no faster than
    others."""
    weight_decay: NaturalFloat = 0.0
    """Weight decay, decoupled as in AdamW."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the whole gradient; null for no clipping."""
    seed: Annotated[NaturalInt, FIT_DIGEST] = 0
    """Seed of the initial network, the sample order and the context sets."""
    zero_stage: Annotated[ZeroStage | None, FREE] = None
    """DeepSpeed ZeRO stage. Default: 0 with muon, else 1."""
    shuffle_window: PositiveInt = 4096
    """Scans among which the order of one stream is shuffled."""
    checkpoint_steps: Annotated[PositiveInt | None, FREE] = None
    """Outer steps between checkpoints, at most. Where neither this nor checkpoint_minutes is set, the interval follows
    from what a checkpoint costs and how often this run is interrupted (Young's formula)."""
    checkpoint_minutes: Annotated[PositiveFloat | None, FREE] = None
    """Minutes between checkpoints, at most; two more where storage has not yet taken the one before."""
    node_hours_between_failures: Annotated[PositiveFloat, FREE] = 6.0
    """Hours that a node is expected to last, for choosing the interval, until the run has seen failures of its own."""
    keep_checkpoints: Annotated[int, Field(ge=2), FREE] = 3
    """Newest checkpoints to keep."""
    keep_checkpoint_hours: Annotated[PositiveFloat | None, FREE] = None
    """Hours after which a checkpoint is deleted even if it is among these; never the last good one."""
    validate_steps: PositiveInt = 1000
    """Outer steps between measurements of held-out PSNR."""
    validate_scans: PositiveInt = 64
    """Held-out scans that are fitted per measurement."""
    max_failures: Annotated[NaturalInt, FREE] = 3
    """Worker failures after which a run gives up. Preemptions do not count."""
    max_preemptions: Annotated[NaturalInt | None, FREE] = None
    """Preemptions after which a run gives up, resumable. Default: it never does."""
    hang_timeout: Annotated[float, Field(ge=2), FREE] = 600.0
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
