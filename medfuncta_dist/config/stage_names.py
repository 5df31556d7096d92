"""The stages of a run, by name and in order: what the command line, the chain and submitted jobs agree on."""

from __future__ import annotations

from collections.abc import Sequence

from medfuncta_dist.errors import RunFileError

STAGES = ("pack", "train", "fit", "evaluate")
"""What every run goes through."""
KNOWN = (*STAGES, "prior")
"""And what a run may have beside it, after the others: a generative model over its latents."""
COMPUTING = ("train", "fit", "prior")
"""Stages that compute with the network: on GPUs where the run file gives workers any, and only after it is settled how
numbers are multiplied. The others read, write and count."""


FOR_PATCHES = ("pack", "train", "fit")
"""Stages of a run whose scans are grids of patches (``data.patches``). The others need one latent per scan."""


def require_stages(names: Sequence[str], *, patches: bool = False) -> None:
    """RunFileError at the first name that is not a stage's, or, with ``patches``, one that such a run does not have."""
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise RunFileError(f"there is no stage {unknown[0]!r}", do=f"choose from {', '.join(KNOWN)}")
    refused = [name for name in names if name not in FOR_PATCHES] if patches else []
    if refused:
        raise RunFileError(
            f"the stage {refused[0]} needs one latent per scan, and the scans of this run are grids of patches",
            where="data.patches",
            do=f"name the stages {', '.join(FOR_PATCHES)}; `medfuncta-dist decode` gives scans, and the latent table "
            "their PSNR",
        )
