"""The section ``fit`` of the run file: how latents are fitted and stored."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from medfuncta_dist.config.keys import (
    FREE,
    NO_RESULT,
    OF_BASIS,
    OF_SIREN,
    SETTLED,
    Added,
    Key,
    Meaning,
    OnlyFor,
    OpenCountsAs,
    WithinRun,
)
from medfuncta_dist.config.section import NaturalFloat, NaturalInt, PositiveFloat, PositiveInt, Ratio, Section, Split

NO_FIT_DIGEST = Key(in_fit_digest=False)
OPEN_SCANS_PER_TASK = 1024
"""What an open ``fit.scans_per_task`` counts as in digests, and is until a run has chosen: the default of earlier
versions."""
DEFAULT_CURVED_LOSS = 0.2
SMALLEST_SHARE = 0.0001
"""Of a GPU: Ray counts in ten-thousandths."""


def _grantable(gpus: float | None) -> float | None:
    """What Ray can grant a task."""
    if gpus is not None and gpus > 1 and not gpus.is_integer():
        raise ValueError("a task gets a share of one GPU or whole GPUs: set a number up to 1, or a whole one")
    if gpus is not None and 0 < gpus < SMALLEST_SHARE:
        raise ValueError(f"the smallest share of a GPU is {SMALLEST_SHARE}: set a larger one, or 0 for CPUs")
    return gpus


class Fit(Section):
    """How a latent is fitted to each scan, with the shared network fixed."""

    MEANING: ClassVar = Meaning(in_fit_digest=True, public=True)

    method: Literal["sgd", "momentum", "gauss-newton", "exact"] = "gauss-newton"
    """``sgd``: plain gradient steps, as published. ``momentum``: gradient steps with momentum. ``gauss-newton``: the
    curvature of each scan determines direction and length of its steps (Levenberg-Marquardt): better latents in a
    fifth of the steps. ``exact``: a basis field's only method, and its default: one solve, for which only ridge, keep
    and selection_ratio matter."""
    steps: Annotated[PositiveInt, OF_SIREN] = 10
    """H, number of steps, starting from φ = 0."""
    rate: Annotated[PositiveFloat | None, OF_SIREN] = None
    """Step size of sgd and momentum. Default: the network's learned rates if it has them, otherwise
    ``meta.inner_rate``."""
    momentum: Annotated[float, Field(ge=0, lt=1), OF_SIREN] = 0.5
    """Share of each step that is added to the next one (momentum)."""
    damping: Annotated[PositiveFloat, OF_SIREN] = 1.0
    """Initial λ of gauss-newton, relative to a scan's mean curvature. It is then adapted for each scan, by comparing
    the improvement of each step with the predicted one."""
    curvature_ratio: Annotated[Ratio, OF_SIREN] = 0.309
    """Share of a step's coordinates, evenly spread, from which gauss-newton computes the curvature. Do not use a simple
    fraction such as 1/4: the points would lie in columns."""
    selection_ratio: Ratio = 1.0
    """γ while fitting; 1 uses every coordinate. gauss-newton uses the same evenly spread ones at every step; the other
    methods draw new ones."""
    full_steps: Annotated[NaturalInt, OF_SIREN] = 0
    """Number of last steps that use every coordinate, whatever selection_ratio is."""
    closed_form: Annotated[bool, OF_SIREN] = True
    """Compute the first step from the field's Jacobian at φ = 0, which is the same for all scans: it uses every
    coordinate at almost no cost. Needs the Jacobian in memory."""
    rescale: Annotated[Ratio | None, OF_SIREN] = None
    """Multiply each scan's step by the ratio of two gradients' sizes, one of them on this share of the coordinates, as
    the published code does. Null: off."""
    target_psnr: Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, OF_SIREN] = None
    """Stop fitting a scan when it reaches this PSNR (dB)."""
    ridge: Annotated[PositiveFloat, Added(1e-6), OF_BASIS] = 1e-6
    """λ of a basis field's solve, relative to the mean diagonal of its Gram matrix."""
    keep: Annotated[PositiveInt | None, Added(None), OF_BASIS] = None
    """How many of a basis field's numbers are stored, the first ones, which are the best that many. Default: all P."""
    storage_loss: Annotated[PositiveFloat | None, Added(None), OF_BASIS] = None
    """Loss of PSNR (dB) that storing a basis field's latents may cost. The fit stage then chooses the coarsest
    storage_type and the smallest keep whose loss, predicted from the network, is within it; leave out both. It leaves
    out numbers only where there were four training scans or more per number. Default: nothing is chosen."""
    batch: PositiveInt = 256
    """Scans fitted at once."""
    block_scans: Annotated[PositiveInt | None, SETTLED, NO_FIT_DIGEST, Added(None), OF_SIREN] = None
    """Scans that are fitted together, from their first step to their last; it affects the last bits. Default:
    meta.chunk_scans on CPUs, and as many as the free memory allows on a GPU; kept in the run's run.yaml."""
    captured: Annotated[
        bool | None, SETTLED, NO_RESULT, NO_FIT_DIGEST, Added(None), OnlyFor("siren", idle=(False,))
    ] = None
    """Whether all steps of a block are recorded as a CUDA graph and replayed: the outcome of meta.graphs for fitting,
    kept in the run's run.yaml. If you set it, there is no test."""
    scans_per_task: Annotated[PositiveInt | None, SETTLED, OpenCountsAs(OPEN_SCANS_PER_TASK)] = None
    """Scans per Ray task and per table part; with ``data.patches``, patches of them. Does not change any latent.
    Default: the fit stage tries, once, how fast a worker fits, and chooses whole batches that take it 30 s or longer;
    fewer where shards are smaller than that, where a part would have more than 256 MB of latents (16 MB of patches), or
    where workers would get less than 4 tasks each."""
    chosen_scans_per_task: Annotated[PositiveInt | None, SETTLED, NO_RESULT, NO_FIT_DIGEST, Added(None)] = None
    """What the fit stage chose for an open scans_per_task. The run writes it; leave it out."""
    min_psnr: float = 20.0
    """A scan reconstructed with a lower PSNR (dB) is stored and flagged."""
    storage_type: Literal["float32", "float16", "int8", "curved"] = "float32"
    """Type of stored latents; int8 has one scale per scan. ``curved``: whole numbers in the metric of images, entropy
    coded, about half the bytes of int8; needs the extra ``curved`` wherever latents are fitted or read. The PSNR in the
    table is that of the stored latent."""
    curved_loss: Annotated[PositiveFloat, Added(DEFAULT_CURVED_LOSS)] = DEFAULT_CURVED_LOSS
    """Mean loss of PSNR (dB) that curved storage may cost; above 60 dB, where nobody sees a loss, none counts. The fit
    stage chooses the largest step within it, once, on training scans."""
    gpus_per_task: Annotated[NaturalFloat | None, AfterValidator(_grantable), FREE, Added(None)] = None
    """GPUs per task of the stages fit and evaluate. With a fraction, such as 0.25, several tasks share a GPU and its
    memory; they need as many times cluster.cpus_per_worker on its node. A task computes on one GPU, even if it gets
    more. Does not change any latent, except through float rounding. Default: cluster.gpus_per_worker."""
    splits: Annotated[list[Split] | None, Key(within_run=WithinRun.FREE, in_fit_digest=False)] = None
    """Splits to fit. Does not change any latent. Default: every split of the snapshot."""

    @model_validator(mode="after")
    def _steps(self) -> Fit:
        if self.full_steps > self.steps:
            raise ValueError(f"full_steps is {self.full_steps}, more than all of the {self.steps} steps")
        return self

    @model_validator(mode="after")
    def _task_size(self) -> Fit:
        if self.scans_per_task is not None and self.chosen_scans_per_task is not None:
            raise ValueError("chosen_scans_per_task stands for an open scans_per_task: leave out one or the other")
        return self

    @model_validator(mode="after")
    def _storage(self) -> Fit:
        given = [name for name, is_set in (("keep", self.keep is not None), ("storage_type", self._rounded)) if is_set]
        if self.storage_loss is not None and given:
            raise ValueError(f"storage_loss chooses {' and '.join(given)}: leave out one or the other")
        if self.curved_loss != DEFAULT_CURVED_LOSS and self.storage_type != "curved":
            raise ValueError("curved_loss is for storage_type curved: set that, or leave it out")
        return self

    @property
    def range_scans(self) -> int:
        """Scans per task: as given, as the run chose, or, before it has chosen, as the open key counts."""
        return self.scans_per_task or self.chosen_scans_per_task or OPEN_SCANS_PER_TASK

    @property
    def task_size_open(self) -> bool:
        """Whether the number of scans per task is neither given nor chosen yet."""
        return self.scans_per_task is None and self.chosen_scans_per_task is None

    @property
    def _rounded(self) -> bool:
        return self.storage_type != "float32"
