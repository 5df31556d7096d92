"""The section ``prior`` of the run file: the generative model over a run's latents."""

from __future__ import annotations

from typing import Annotated, ClassVar

from medfuncta_dist.config.keys import Added, Key, Meaning, WithinRun
from medfuncta_dist.config.section import NaturalInt, PositiveFloat, PositiveInt, Ratio, Section

STEPS, BATCH, RATE, NUMBERS, WIDTH, BLOCKS, COPIED = 2000, 128, 1e-3, 256, 256, 2, 0.05


class Prior(Section):
    """The model that ``train-prior`` fits to the latents of the split train, and ``sample`` draws new scans from. All
    keys may change within a run: another value is another prior, which takes the place of the former one.
    """

    MEANING: ClassVar = Meaning(WithinRun.FREE, public=True)

    steps: Annotated[PositiveInt, Added(STEPS)] = STEPS
    """Training steps. More of them on few scans make copies of these: see most_copied."""
    batch: Annotated[PositiveInt, Added(BATCH)] = BATCH
    """Latents per step, over all workers; at most as many as there are training scans."""
    rate: Annotated[PositiveFloat, Added(RATE)] = RATE
    """AdamW's largest step size; it rises in the first twentieth of the steps, and ends at 0."""
    numbers: Annotated[PositiveInt, Added(NUMBERS)] = NUMBERS
    """How many numbers of a latent are modelled, at most a quarter as many as there are training scans: those along
    which images differ most. The others are the mean's."""
    width: Annotated[PositiveInt, Added(WIDTH)] = WIDTH
    """Width of the model's layers."""
    blocks: Annotated[PositiveInt, Added(BLOCKS)] = BLOCKS
    """Residual blocks of the model."""
    seed: Annotated[NaturalInt, Added(0)] = 0
    """Seed of the model, its noise, and the order of latents."""
    most_copied: Annotated[Ratio, Key(decides_results=False), Added(COPIED)] = COPIED
    """Largest share of samples that may be as near to a training scan as only 1 % of held-out scans are. Above it,
    ``sample`` refuses; also where fewer than 20 held-out scans judge the prior. 1 allows everything."""
