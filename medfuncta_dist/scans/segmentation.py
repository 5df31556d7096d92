"""Segmentations told by the names that data sets give them, not to be packed as images; and whose each is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

IN_READERS = frozenset({"nifti", "mgh", "image", "tiff"})
"""Readers of formats in which a segmentation looks like an image. (A DICOM segmentation says what it is.)"""

FOLDERS = frozenset(
    {"labelstr", "labelsts", "labelsval", "label", "labels", "mask", "masks", "segmentation", "segmentations"}
)
"""Folders of nothing else, in lower case: nnU-Net's, and the usual words."""
NNUNET = frozenset({"labelstr", "labelsts", "labelsval"})
IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "scans"})
BIDS = re.compile(r"sub-[0-9A-Za-z+]+_")
FIRST = re.compile(r"mask(?!ed|ing)|(label|labels|labelmap|seg|segmentations?)([-_ .]|$)")
LAST = re.compile(r"(^|[-_ .+])(seg|dseg|probseg|segmentations?|masks?|labels?|labelmap|aseg|wmparc|ribbon)[-_]?\d*$")
"""BIDS (_dseg, _probseg, _mask), BraTS (_seg), KiTS (segmentation), FreeSurfer (aseg, aparc+aseg, wmparc, ribbon)."""


def is_segmentation(uri: str) -> bool:
    """Whether the name of a file, or of its folder, says that it is a segmentation. ``masked`` is not ``mask``."""
    parts = uri.lower().rsplit("/", 2)
    stem = _stem(parts[-1])
    in_folder = len(parts) > 1 and parts[-2] in FOLDERS
    return in_folder or bool(FIRST.match(stem) or LAST.search(stem))


def pairs(images: Sequence[str], masks: Sequence[str]) -> tuple[dict[str, str], int]:
    """Image → its segmentation, by the names of both (URIs); and how many images have several.

    nnU-Net: ``labelsTr/case`` of ``imagesTr/case_0000``. Two folders: ``masks/7`` of ``images/7``. BIDS: ``_dseg`` or
    ``_mask`` of the same entities, wherever it lies. Else, in one folder: ``case-seg`` of ``case-t1n``, or of ``case``.
    """
    by_name: dict[tuple[str, str], list[str]] = {}
    for mask in masks:
        if (name := _name_of_mask(mask)) is not None:
            by_name.setdefault(name, []).append(mask)
    found = {image: {mask for name in _names_of_image(image) for mask in by_name.get(name, ())} for image in images}
    several = sum(len(candidates) > 1 for candidates in found.values())
    return {image: candidates.pop() for image, candidates in found.items() if len(candidates) == 1}, several


def _parts(uri: str) -> tuple[str, str, str]:
    """The path to the folder, the folder's name in lower case, the file's stem."""
    path, _, name = uri.rpartition("/")
    return *_split(path), _stem(name)


def _split(path: str) -> tuple[str, str]:
    above, _, folder = path.rpartition("/")
    return above, folder.lower()


def _name_of_mask(uri: str) -> tuple[str, str] | None:
    """What an image must be called for this segmentation to be its."""
    above, folder, stem = _parts(uri)
    if folder in FOLDERS:
        return f"{above}/{folder.removeprefix('labels') if folder in NNUNET else ''}", stem
    suffix = LAST.search(stem.lower())
    if suffix is None or suffix[2] == "probseg":
        return None
    rest = stem[: suffix.start()]
    if BIDS.match(stem):
        return "bids", "_".join(part for part in rest.split("_") if not part.startswith(("desc-", "label-")))
    return f"{above}/{folder}", rest


def _names_of_image(uri: str) -> Iterator[tuple[str, str]]:
    above, folder, stem = _parts(uri)
    if folder in ("imagestr", "imagests", "imagesval"):
        yield f"{above}/{folder.removeprefix('images')}", stem.rpartition("_")[0]
    elif BIDS.match(stem):
        yield "bids", stem.rpartition("_")[0]
    else:
        if folder in IMAGE_FOLDERS:
            yield f"{above}/", stem
        yield f"{above}/{folder}", stem
        yield f"{above}/{folder}", re.split(r"[-_][^-_]*$", stem)[0]
        yield f"{above}/{folder}", ""  # segmentation.nii.gz beside imaging.nii.gz


def _stem(name: str) -> str:
    """A file's name without its suffix, ``.nii.gz`` included."""
    name = name.removesuffix(".gz")
    return name.rpartition(".")[0] or name
