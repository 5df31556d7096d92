"""A small run of volumes that are grids of patches, with everything before the fit stage done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from tests.native_scans import packed_volumes
from tests.unit.latents.fitted import FEATURES, FIELD, FIT, SIZES, network, publish

SHAPES = ((9, 7, 10), (5, 12, 8), (3, 4, 5), (8, 8, 8))
"""With patches of 5 and an overlap of 1: grids of 2 x 2 x 3, 1 x 3 x 2, 1 and 2 x 2 x 2, so 27 patches in all."""
SIZE, OVERLAP = (5, 5, 5), 1
PATCHES = 27


def patched_run(
    folder: Path, kind: str = "siren", shapes: Sequence[tuple[int, int, int]] = SHAPES, **fit: Any
) -> RunFile:
    """Packed, with a random network, fitted in ranges of 8 patches and batches of 3: most scans are in several."""
    field = FIELD if kind == "siren" else {"kind": kind, **SIZES, "features": FEATURES}
    sections = {
        "field": field,
        "fit": {**FIT[kind], "batch": 3, "scans_per_task": 8, "min_psnr": 5.0, **fit},
        "cluster": {"cache": str(folder / "cache")},
    }
    run = packed_volumes(folder, shapes, size=SIZE, overlap=OVERLAP, sections=sections, max_quarantined=0.5)
    publish(run, network(run))
    return run
