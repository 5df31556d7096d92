"""Which images of a DICOM series make one volume, in which order, and why others make none. Pure: headers in.

Names, folders and instance numbers say nothing reliable; position along the normal does (DICOM PS3.3, C.7.6.2.1.1).
Images of one orientation, size and pixel spacing are a stack. Where several lie at one place (echoes, phases, times),
a mark of their headers tells the stacks apart.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

MARKS = ("acquisition", "echo", "phase", "time", "b-value", "image type", "contrast", "kernel")
"""What may tell images at one place apart, in the order in which it is tried."""

LOCALIZER = "a localizer image"
DERIVED = "an image that was derived from others"
NO_GEOMETRY = "an image without position, orientation or spacing, which belongs to no volume"
DUPLICATE = "the same image again"
AMBIGUOUS = "several images at one place that nothing in their headers tells apart"
GAP = "slices of the volume are missing"
MIXED = "the slices of the volume are not equally spaced"
TILTED = "the slices of the volume are shifted against each other (a tilted gantry)"

SINGLE = "a single image, which is no volume"

PARALLEL = 1e-4
"""Largest difference of a direction's components within a stack: scanners write six digits."""
SAME_SPACING = 1e-4
"""Relative; in-plane."""
UNEVEN = 0.01
"""Largest difference of two distances between slices, relative to the usual one."""
ROUNDED = 0.0201
"""mm that distances may differ by whatever they are, up to ``FINEST`` of them: positions are written with two or three
decimals."""
FINEST = 0.065
ONE_PLACE = 0.01
"""mm; nearer along the normal is one place."""
MOSTLY = 4
"""Times as many ordinary distances as long ones: then slices are missing; otherwise the spacing is mixed."""
ORTHONORMAL = 1e-3
"""Directions are of length 1 and at right angles to this. Anonymisers may leave zeros."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Image:
    """One image, by its header. ``place``: whatever the caller finds it by; never printed."""

    place: Any = field(repr=False)
    instance: str = field(repr=False)
    """SOPInstanceUID; empty where the file has none."""
    shape: tuple[int, ...]
    """Rows and columns, and whatever else is the same in all images of a volume (values per pixel)."""
    spacing: tuple[float, float] | None
    """mm between rows, between columns."""
    orientation: tuple[float, ...] | None
    """Direction cosines along a row, then down a column (LPS)."""
    position: tuple[float, ...] | None
    """Of the first pixel, in mm (LPS)."""
    number: int | None = None
    """InstanceNumber; decides only where nothing else does."""
    marks: tuple[str, ...] = ()
    """By ``MARKS``; a shorter tuple has no others."""
    localizer: bool = False
    derived: bool = False

    def mark(self, index: int) -> str:
        """The image's value of a mark; empty where it has none."""
        return self.marks[index] if index < len(self.marks) else ""


@dataclass(frozen=True)
class Stack:
    """Images that make one volume, in order along their normal; a single image is no regular one."""

    images: tuple[Image, ...]
    affine: Float[np.ndarray, "4 4"]
    """(row, column, slice, 1) → RAS mm."""
    problem: str | None = None
    """Why it is no regular volume; None where it is one."""
    missing: int = 0
    """Slices that a gap leaves out."""


@dataclass(frozen=True)
class Assembly:
    """What a series holds: stacks, and images that belong to none, with the reason."""

    stacks: tuple[Stack, ...]
    left: tuple[tuple[Image, str], ...]


def assemble(images: Iterable[Image], keep: Collection[str] = ()) -> Assembly:
    """The stacks of one series, whatever the order of ``images``: largest first.

    ``keep``: ``LOCALIZER``, ``DERIVED`` or both, where such images are to make stacks like others.
    """
    left: list[tuple[Image, str]] = []
    usable: list[Image] = []
    seen: set[str] = set()
    for image in sorted(images, key=_order):
        reason = _reason_against(image, bool(image.instance) and image.instance in seen, keep)
        seen.add(image.instance)
        if reason is None:
            usable.append(image)
        else:
            left.append((image, reason))
    stacks = [stack for group in _alike(usable) for stack in _told_apart(group)]
    return Assembly(tuple(sorted(stacks, key=lambda stack: (-len(stack.images), _order(stack.images[0])))), tuple(left))


def _reason_against(image: Image, repeated: bool, keep: Collection[str]) -> str | None:
    if repeated:
        return DUPLICATE
    if image.localizer and LOCALIZER not in keep:
        return LOCALIZER
    if image.derived and DERIVED not in keep:
        return DERIVED
    return None if has_geometry(image) else NO_GEOMETRY


def has_geometry(image: Image) -> bool:
    """Whether the image says where in space its pixels are."""
    if image.orientation is None or image.position is None or image.spacing is None:
        return False
    row, column = image.orientation[:3], image.orientation[3:]
    products = (_dot(row, row) - 1, _dot(column, column) - 1, _dot(row, column))
    at_right_angles = all(abs(product) <= ORTHONORMAL for product in products)
    return at_right_angles and all(map(math.isfinite, image.position)) and all(0 < s < math.inf for s in image.spacing)


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    """In plain numbers: an archive has millions of images, and NumPy takes longer for three numbers."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def _order(image: Image) -> tuple[Any, ...]:
    """A total order that depends on headers alone."""
    return (image.orientation or (), image.position or (), image.marks, image.number or 0, image.instance)


def _alike(images: Sequence[Image]) -> list[list[Image]]:
    """Groups of one size, pixel spacing and orientation, each compared with its group's first image."""
    groups: list[list[Image]] = []
    for image in images:
        found = next((group for group in groups if _are_alike(group[0], image)), None)
        if found is None:
            groups.append([image])
        else:
            found.append(image)
    return groups


def _are_alike(one: Image, other: Image) -> bool:
    if one.shape != other.shape:
        return False
    spacings = zip(one.spacing or (), other.spacing or (), strict=True)
    directions = zip(one.orientation or (), other.orientation or (), strict=True)
    return all(abs(a - b) <= SAME_SPACING * abs(b) for a, b in spacings) and all(
        abs(a - b) <= PARALLEL for a, b in directions
    )


def _told_apart(group: list[Image]) -> list[Stack]:
    """One stack per place in which each position occurs once; all of them as one where nothing tells them apart."""
    most = max(map(len, _by_place(group)))
    if most == 1:
        return [_stack(group)]
    for split in _splits(group, most):
        if all(len(places) == len(part) for part in split for places in [_by_place(part)]):
            return [_stack(part) for part in split]
    return [Stack(tuple(group), _affine(group), AMBIGUOUS)]


def _splits(group: list[Image], most: int) -> Iterable[list[list[Image]]]:
    """By each mark that has as many values as images lie at one place, by all marks, and, where every place has as many
    images, by their order at it."""
    for index in range(len(MARKS)):
        split = _split(group, _marked(index))
        if len(split) == most:
            yield split
    split = _split(group, lambda image: image.marks)
    if len(split) == most:
        yield split
    places = _by_place(group)
    numbered = all(image.number is not None for image in group)
    if numbered and all(len(place) == most for place in places):
        ordered = [sorted(place, key=lambda image: image.number or 0) for place in places]
        yield [list(part) for part in zip(*ordered, strict=True)]


def _marked(index: int) -> Callable[[Image], str]:
    return lambda image: image.mark(index)


def _split(group: list[Image], by: Callable[[Image], Any]) -> list[list[Image]]:
    parts: dict[Any, list[Image]] = defaultdict(list)
    for image in group:
        parts[by(image)].append(image)
    return [parts[value] for value in sorted(parts)]


def _by_place(group: Sequence[Image]) -> list[list[Image]]:
    """The images by where they lie along the normal; nearer than ``ONE_PLACE`` is one."""
    heights = _heights(group)
    places: list[list[Image]] = []
    last = -np.inf
    for index in np.argsort(heights, kind="stable"):
        if heights[index] - last <= ONE_PLACE:
            places[-1].append(group[index])
        else:
            places.append([group[index]])
        last = heights[index]
    return places


def _stack(group: Sequence[Image]) -> Stack:
    heights = _heights(group)
    order = np.argsort(heights, kind="stable")
    images = [group[index] for index in order]
    problem, missing = _problem(images, heights[order])
    return Stack(tuple(images), _affine(images), problem, missing)


def _problem(images: Sequence[Image], heights: Float[np.ndarray, " image"]) -> tuple[str | None, int]:
    if len(images) < 2:
        return SINGLE, 0
    steps = np.diff(heights)
    usual = float(np.median(steps))
    allowed = max(min(ROUNDED, FINEST * usual), UNEVEN * usual)
    if np.abs(steps - usual).max() > allowed:
        multiples = np.rint(steps / usual)
        whole = np.abs(steps - multiples * usual).max() <= allowed * max(1.0, float(multiples.max()))
        long = int((multiples > 1).sum())
        if whole and multiples.min() >= 1 and len(steps) - long >= MOSTLY * long:
            return GAP, int((multiples - 1).sum())
        return MIXED, 0
    return _sideways(images, allowed), 0


def _sideways(images: Sequence[Image], allowed: float) -> str | None:
    """Whether the slices are shifted within their plane, evenly (a tilted gantry) or not."""
    positions = _positions(images)
    normal = _normal(images[0])
    inside = positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)
    if np.linalg.norm(inside, axis=1).max() <= allowed:
        return None
    even = np.outer(np.linspace(0, 1, len(images)), inside[-1])
    return TILTED if np.linalg.norm(inside - even, axis=1).max() <= allowed else MIXED


def affine_with(image: Image, thickness: float) -> Float[np.ndarray, "4 4"]:
    """(row, column, slice, 1) → RAS mm of one image that has a geometry, and whose neighbours would be at a distance of
    ``thickness`` mm."""
    return _affine_of(image, np.cross(*directions(image)) * thickness)


def directions(image: Image) -> Float[np.ndarray, "2 3"]:
    """Unit vectors along a row and down a column (LPS). Files round the cosines: to six digits, some to three."""
    vectors = np.reshape(image.orientation or (), (2, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _affine(images: Sequence[Image]) -> Float[np.ndarray, "4 4"]:
    positions = _positions(images)
    step = (positions[-1] - positions[0]) / (len(images) - 1) if len(images) > 1 else np.zeros(3)
    return _affine_of(images[0], step if np.linalg.norm(step) > 0 else _normal(images[0]))


def _affine_of(first: Image, step: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "4 4"]:
    along_row, down_column = directions(first)
    between_rows, between_columns = first.spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = down_column * between_rows, along_row * between_columns
    affine[:3, 2], affine[:3, 3] = step, first.position
    return LPS_TO_RAS @ affine


def places_of(stack: Stack) -> tuple[Float[np.ndarray, " image"], Float[np.ndarray, "image 2"]]:
    """Where the images of a stack lie relative to the first one: mm along the normal, and the rows and columns by which
    they are shifted within their plane."""
    first, positions = stack.images[0], _positions(stack.images)
    along_row, down_column = directions(first)
    away = positions - positions[0]
    return away @ _normal(first), np.stack([away @ down_column, away @ along_row], axis=1) / (first.spacing or 1)


def _heights(images: Sequence[Image]) -> Float[np.ndarray, " image"]:
    return np.asarray(_positions(images) @ _normal(images[0]))


def _positions(images: Sequence[Image]) -> Float[np.ndarray, "image 3"]:
    return np.array([image.position for image in images], np.float64)


def _normal(image: Image) -> Float[np.ndarray, " 3"]:
    normal = np.cross(*directions(image))
    return np.asarray(normal / np.linalg.norm(normal))
