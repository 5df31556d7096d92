"""The section ``meta`` of the run file: the inner loop, and how its numbers are computed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from medfuncta_dist.config.keys import OF_BASIS, OF_SIREN, SETTLED, Added, Meaning, OnlyFor
from medfuncta_dist.config.section import BARE_WORD, PositiveFloat, PositiveInt, Ratio, Section


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
    products: Annotated[Literal["onednn", "torch"] | None, SETTLED] = None
    """The library that multiplies matrices: oneDNN called directly (CPU only), or torch's own. It affects the last
    bits. Default: the faster one, chosen when the run first computes, and kept in its run.yaml."""
    compile: Annotated[Literal["auto", "on", "off"], BARE_WORD, OnlyFor("siren", idle=("off",))] = "auto"
    """Compile sweeps with torch.compile, with CUDA graphs on a GPU. ``auto``: on a GPU only. Tested once when the run
    first computes: if results differ, nothing is gained or a compiler is missing, the run computes without it and
    prints a warning."""
    compiled: Annotated[bool | None, SETTLED, OnlyFor("siren", idle=(False,))] = None
    """The outcome of ``compile``, kept in the run's run.yaml. If you set it, there is no test."""
