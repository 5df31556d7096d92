"""A data set of volumes in their own shapes, made and packed as a user would: for all tests of patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.task_map import map_here
from tests.writers import structured, write_nifti

SHAPES = ((20, 24, 18), (31, 16, 22), (9, 30, 12))
"""Of the volumes: one point more than some number of patches of 16 or 8, exactly as many, and fewer than a patch."""
AFFINE = np.array([[2.0, 0, 0, -20], [0, 1.5, 0, 10], [0, 0, 3, 5], [0, 0, 0, 1]])
"""RAS+, 2 x 1.5 x 3 mm, off centre."""


def volume(number: int, shape: Sequence[int]) -> np.ndarray:
    """int16 (i, j, k) in 0..1000, smooth: what ``packed_volumes`` writes, and what is packed."""
    return np.asarray(np.rint(structured(shape, seed=number) * 1000).astype(np.int16))


def packed_volumes(
    folder: Path,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    *,
    storage: str | None = None,
    size: Sequence[int] = (16, 16, 16),
    overlap: int | Sequence[int] = 0,
    sections: dict[str, object] | None = None,
    **data: object,
) -> RunFile:
    """NIfTI files of these shapes in ``folder/archive``, packed by the pack stage with ``data.patches`` into storage
    (``folder/store`` unless given). ``data``: other keys of that section; ``sections``: other sections.

    All scans are in the split train unless ``data`` gives fractions. Keys do not depend on the folder.
    """
    private = folder / "private"
    private.mkdir(parents=True, exist_ok=True)
    (private / "salt").write_text("5a" * 32)
    (private / "salt").chmod(0o600)
    (folder / "archive").mkdir()
    for number, shape in enumerate(shapes):
        write_nifti(folder / "archive" / f"volume-{number}.nii", affine=AFFINE, array=volume(number, shape))
    section = {
        "source": str(folder / "archive"),
        "patches": {"size": list(size), "overlap": overlap if isinstance(overlap, int) else list(overlap)},
        "private": str(private),
        "fractions": {"train": 1.0},
    }
    root = storage or str(folder / "store")
    run = RunFile.model_validate({"name": "native", "storage": root, "data": section | data, **(sections or {})})
    pack(run, map_here, lambda progress: None)
    return run
