"""The section ``meta`` of the run file: the inner loop, and how its numbers are computed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from medfuncta_dist.config.keys import NO_RESULT, OF_BASIS, OF_SIREN, SETTLED, Added, Meaning, OnlyFor
from medfuncta_dist.config.section import BARE_WORD, NaturalInt, PositiveFloat, PositiveInt, Ratio, Section


class Meta(Section):
    """The inner loop."""

    MEANING: ClassVar = Meaning(public=True)

    inner_steps: Annotated[PositiveInt, OF_SIREN] = 10
    """G, inner steps per outer step. A basis field's latents are solved for instead, on one context set."""
    inner_rate: Annotated[PositiveFloat | None, OF_SIREN] = None
    """α, step size of the inner loop; the initial value of learned rates. Default: 2000 / ω² for the largest
    ω of the field (0.31 at 80, 0.05 at 200), close to the largest value that trains."""
    rate_policy: Annotated[Literal["scalar", "layer", "learned"], OF_SIREN] = "scalar"
    """``scalar``: inner_rate at every step, as published. ``layer``: inner_rate at the first modulated layer, falling
    as 1/ω² with depth. ``learned``: one rate per inner step, trained with the network and stored in it."""
    selection_ratio: Ratio = 0.25
    """γ, share of the coordinates in each inner step's context set."""
    ridge: Annotated[PositiveFloat, Added(1e-4), OF_BASIS] = 1e-4
    """λ of a basis field's solve while it is trained, relative to the mean diagonal of its Gram matrix. Larger is
    safer: the condition number that is logged stays below the number of features divided by it."""
    chunk_points: Annotated[PositiveInt | None, SETTLED] = None
    """Coordinates that one sweep processes at once. With ``chunk_scans`` it limits memory and affects the last bits.
    Default: chosen from the free memory when the run starts, and kept in its run.yaml."""
    chunk_scans: Annotated[PositiveInt | None, SETTLED] = None
    """Scans that one sweep processes at once; chosen like ``chunk_points``."""
    products: Annotated[Literal["onednn", "torch", "triton"] | None, SETTLED] = None
    """What multiplies matrices: oneDNN called directly (CPU only), torch's own libraries, or this project's kernels for
    GPUs (a SIREN's, on NVIDIA GPUs from Ampere on; they use tensor cores as ``precision`` says). It affects the last
    bits. Default: the fastest one that is right, chosen when the run first computes, and kept in its run.yaml."""
    precision: Annotated[Literal["fp32", "tf32", "tf32x3"] | None, SETTLED, Added(None)] = None
    """How a GPU multiplies float32 matrices. ``fp32``: all bits, on ordinary units. ``tf32``: on tensor cores, with 11
    of 24 bits per number. ``tf32x3``: on tensor cores in three passes, close to float32. Default on a GPU: tf32x3
    where this project's kernels are chosen (``products``), else fp32; kept in the run's run.yaml, and with its network
    and latents. On CPUs always float32."""
    compile: Annotated[Literal["auto", "on", "off"], BARE_WORD, OnlyFor("siren", idle=("off",))] = "auto"
    """Compile sweeps with torch.compile. ``auto``: on a GPU only. Tested once when the run first computes: if results
    differ, nothing is gained or a compiler is missing, the run computes without it and prints a warning."""
    compiled: Annotated[bool | None, SETTLED, OnlyFor("siren", idle=(False,))] = None
    """The outcome of ``compile``, kept in the run's run.yaml. If you set it, there is no test."""
    graphs: Annotated[Literal["auto", "on", "off"], BARE_WORD, NO_RESULT, Added("auto"), OnlyFor("siren", ("off",))] = (
        "auto"
    )
    """Record whole training and fitting steps as CUDA graphs and replay them; needs a GPU. ``auto`` and ``on``: tested
    once when the run first computes, like ``compile``; replays must give the eager step's numbers. With ``on``, a
    warning says why if the run computes without them."""
    captured: Annotated[bool | None, SETTLED, NO_RESULT, Added(None), OnlyFor("siren", idle=(False,))] = None
    """The outcome of ``graphs``, kept in the run's run.yaml. If you set it, there is no test."""
    halvings: Annotated[NaturalInt | None, SETTLED, Added(None)] = None
    """How often the chunk sizes, and with them fit.block_scans, were halved because memory ran out. Counted by the run,
    kept in its run.yaml."""
