"""Segmentations told by the names that data sets give them, so that they are not packed as images."""

from __future__ import annotations

import re

IN_READERS = frozenset({"nifti", "mgh", "image", "tiff"})
"""Readers of formats in which a segmentation looks like an image. (A DICOM segmentation says what it is.)"""

FOLDERS = frozenset(
    {"labelstr", "labelsts", "labelsval", "label", "labels", "mask", "masks", "segmentation", "segmentations"}
)
"""Folders of nothing else, in lower case: nnU-Net's, and the usual words."""
FIRST = re.compile(r"mask(?!ed|ing)|(label|labels|labelmap|seg|segmentations?)([-_ .]|$)")
LAST = re.compile(r"(^|[-_ .+])(seg|dseg|probseg|segmentations?|masks?|labels?|labelmap|aseg|wmparc|ribbon)[-_]?\d*$")
"""BIDS (_dseg, _probseg, _mask), BraTS (_seg), KiTS (segmentation), FreeSurfer (aseg, aparc+aseg, wmparc, ribbon)."""


def is_segmentation(uri: str) -> bool:
    """Whether the name of a file, or of its folder, says that it is a segmentation. ``masked`` is not ``mask``."""
    parts = uri.lower().rsplit("/", 2)
    stem = _stem(parts[-1])
    in_folder = len(parts) > 1 and parts[-2] in FOLDERS
    return in_folder or bool(FIRST.match(stem) or LAST.search(stem))


def _stem(name: str) -> str:
    """A file's name without its suffix, ``.nii.gz`` included."""
    name = name.removesuffix(".gz")
    return name.rpartition(".")[0] or name
