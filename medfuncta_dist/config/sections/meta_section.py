"""The section ``meta`` of the run file: the inner loop, and how its numbers are computed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from medfuncta_dist.config.keys import SETTLED, Meaning
from medfuncta_dist.config.section import BARE_WORD, PositiveFloat, PositiveInt, Ratio, Section


class Meta(Section):
    """The inner loop."""

    MEANING: ClassVar = Meaning(public=True)

    inner_steps: PositiveInt = 10
    """G, inner steps per outer step."""
    inner_rate: PositiveFloat | None = None
    """α, step size of the inner loop; where rates are learned, what they start from. Default: 2000 / ω² for the largest
    ω of the field (0.31 at 80, 0.05 at 200), near the largest that trains."""
    rate_policy: Literal["scalar", "layer", "learned"] = "scalar"
    """``scalar``: inner_rate at every step, as published. ``layer``: inner_rate at the first modulated layer, falling
    as 1/ω² with depth. ``learned``: one rate per inner step, trained with the network and stored in it."""
    selection_ratio: Ratio = 0.25
    """γ, share of the coordinates in each inner step's context set."""
    chunk_points: Annotated[PositiveInt | None, SETTLED] = None
    """Coordinates that one sweep takes at once. With ``chunk_scans`` it bounds memory and decides the last bits.
    Default: chosen when the run starts, from the memory that is free, and kept in its run.yaml."""
    chunk_scans: Annotated[PositiveInt | None, SETTLED] = None
    """Scans that one sweep takes at once, likewise."""
    products: Annotated[Literal["onednn", "torch"] | None, SETTLED] = None
    """The library that multiplies matrices: oneDNN called directly (CPU only), or torch's own. It decides the last
    bits. Default: the faster one, chosen when the run first computes, and kept in its run.yaml."""
    compile: Annotated[Literal["auto", "on", "off"], BARE_WORD] = "auto"
    """Sweeps through torch.compile, with CUDA graphs on a GPU. ``auto``: on a GPU only. It is tried once when the run
    first computes: where results differ, nothing is gained or a compiler is missing, the run computes without it, with
    a warning."""
    compiled: Annotated[bool | None, SETTLED] = None
    """What came of ``compile``, kept in the run's run.yaml. Given by hand, it is not tried."""
