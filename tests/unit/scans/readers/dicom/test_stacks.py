"""Series whose right answer is known: images of made volumes, in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.scans.readers.dicom.stacks import (
    AMBIGUOUS,
    DERIVED,
    DUPLICATE,
    GAP,
    LOCALIZER,
    LPS_TO_RAS,
    MARKS,
    MIXED,
    NO_GEOMETRY,
    TILTED,
    Assembly,
    Image,
    assemble,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ECHO, TIME = MARKS.index("echo"), MARKS.index("time")


def marks(**values: str) -> tuple[str, ...]:
    return tuple(values.get(name.replace("-", "_").replace(" ", "_"), "") for name in MARKS)


def series(
    count: int = 6,
    orientation: tuple[float, ...] = AXIAL,
    step: float = 4.0,
    first: tuple[float, float, float] = (-90.0, -80.0, -70.0),
    spacing: tuple[float, float] = (3.0, 2.0),
    offset: int = 0,
    **fields: object,
) -> list[Image]:
    """``place`` tells each image's index."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [
        Image(
            place=offset + index,
            instance=f"1.2.{offset + index}",
            shape=(64, 48),
            spacing=spacing,
            orientation=orientation,
            position=tuple(map(float, np.array(first) + index * step * normal)),
            number=offset + index + 1,
            **fields,  # type: ignore[arg-type]
        )
        for index in range(count)
    ]


def places(assembly: Assembly) -> list[list[int]]:
    return [[image.place for image in stack.images] for stack in assembly.stacks]


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)


@given(
    st.permutations(range(7)),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.floats(0.3, 8),
    st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_a_series_in_any_order_and_orientation_is_one_volume_with_its_affine(
    order: list[int], angles: tuple[float, float, float], step: float, first: tuple[float, float, float]
) -> None:
    turned = rotation(angles)
    orientation = tuple(map(float, turned[:, :2].T.ravel()))
    images = series(7, orientation, step, first)
    found = assemble([images[index] for index in order])
    assert places(found) == [list(range(7))]
    (stack,) = found.stacks
    assert (stack.problem, stack.missing, found.left) == (None, 0, ())
    expected = np.eye(4)
    expected[:3, 0], expected[:3, 1], expected[:3, 2] = turned[:, 1] * 3, turned[:, 0] * 2, turned[:, 2] * step
    expected[:3, 3] = first
    np.testing.assert_allclose(stack.affine, LPS_TO_RAS @ expected, atol=1e-9)


def test_positions_as_scanners_round_them_are_still_a_volume() -> None:
    rounded = [
        replace(image, position=tuple(round(x, 2) for x in image.position or ())) for image in series(40, step=0.3333)
    ]
    (stack,) = assemble(rounded).stacks
    assert stack.problem is None


def test_fine_slices_are_measured_as_finely() -> None:
    """Of a micro-CT: a hundredth of a millimetre is a slice."""
    images = series(9, step=0.05)
    assert assemble(images).stacks[0].problem is None
    thrown = replace(images[4], position=(-90.0, -80.0, -70 + 0.05 * 4.25))
    assert assemble([*images[:4], thrown, *images[5:]]).stacks[0].problem == MIXED


@pytest.mark.parametrize("gone", [[3], [5, 6], [2, 9]])
def test_a_gap_is_no_volume_and_says_how_many_are_missing(gone: list[int]) -> None:
    images = [image for image in series(20) if image.place not in gone]
    (stack,) = assemble(images).stacks
    assert (stack.problem, stack.missing) == (GAP, len(gone))


def test_a_series_that_changes_its_spacing_is_no_volume() -> None:
    lower = series(20, step=4.0)
    upper = series(20, step=2.0, first=(-90.0, -80.0, -70.0 + 80), offset=20)
    (stack,) = assemble(lower + upper).stacks
    assert (len(stack.images), stack.problem) == (40, MIXED)


def test_a_tilted_gantry_is_told_from_slices_that_lie_anywhere() -> None:
    tilted = [replace(image, position=(-90.0, -80.0 + image.place, -70 + 4 * image.place)) for image in series(9)]
    assert assemble(tilted).stacks[0].problem == TILTED
    thrown = [
        replace(image, position=(-90.0, -80.0 + image.place**2 % 5, -70 + 4 * image.place)) for image in series(9)
    ]
    assert assemble(thrown).stacks[0].problem == MIXED


def test_two_orientations_sizes_or_pixel_spacings_are_two_stacks() -> None:
    sagittal = series(4, (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), offset=10)
    small = [replace(image, shape=(32, 32)) for image in series(3, offset=20)]
    finer = series(5, spacing=(1.5, 1.0), offset=30)
    found = assemble(small + sagittal + series(6) + finer)
    assert places(found) == [list(range(6)), list(range(30, 35)), list(range(10, 14)), [20, 21, 22]]
    assert all(stack.problem is None for stack in found.stacks)


@pytest.mark.parametrize("name", [name.replace("-", "_").replace(" ", "_") for name in MARKS])
def test_images_at_one_place_are_told_apart_by_a_mark(name: str) -> None:
    first, second = (series(6, offset=10 * i, marks=marks(**{name: value})) for i, value in enumerate(("1", "2")))
    found = assemble([image for pair in zip(second, first, strict=True) for image in pair])
    assert sorted(places(found)) == [list(range(6)), list(range(10, 16))]
    assert all(stack.problem is None for stack in found.stacks)


def test_a_mark_that_differs_in_every_image_tells_nothing_apart() -> None:
    """The acquisition's time is written in each; the echo is what tells."""
    images = [
        replace(image, marks=marks(time=str(image.place), echo=echo))
        for echo, offset in (("1", 0), ("2", 10))
        for image in series(6, offset=offset)
    ]
    assert sorted(places(assemble(images))) == [list(range(6)), list(range(10, 16))]


def test_two_marks_together_tell_four_stacks_apart() -> None:
    images = [
        image
        for index, (echo, phase) in enumerate([("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")])
        for image in series(4, offset=10 * index, marks=marks(echo=echo, phase=phase))
    ]
    assert sorted(places(assemble(images))) == [[i * 10 + j for j in range(4)] for i in range(4)]


def test_without_a_mark_instance_numbers_tell_times_apart_or_nothing_does() -> None:
    images = series(5) + series(5, offset=5)
    assert sorted(places(assemble(images))) == [list(range(5)), list(range(5, 10))]
    nameless = [replace(image, number=None) for image in images]
    (stack,) = assemble(nameless).stacks
    assert (stack.problem, len(stack.images)) == (AMBIGUOUS, 10)


def test_what_belongs_to_no_volume_is_left_with_its_reason() -> None:
    images = series(8)
    images[1] = replace(images[1], localizer=True)
    images[2] = replace(images[2], position=None)
    images[3] = replace(images[3], derived=True)
    again = replace(images[5], place=99)
    found = assemble([*images, again])
    assert sorted((image.place, reason) for image, reason in found.left) in (
        [(1, LOCALIZER), (2, NO_GEOMETRY), (3, DERIVED), (99, DUPLICATE)],
        [(1, LOCALIZER), (2, NO_GEOMETRY), (3, DERIVED), (5, DUPLICATE)],
    )
    assert 3 in places(assemble(images, keep={DERIVED}))[0]


def test_images_without_an_instance_identifier_are_not_the_same_image() -> None:
    assert places(assemble([replace(image, instance="") for image in series(6)])) == [list(range(6))]


@given(st.permutations(range(12)))
def test_the_answer_does_not_depend_on_the_order(order: list[int]) -> None:
    images = series(6, marks=marks(echo="1")) + series(6, offset=6, marks=marks(echo="2"))
    assert places(assemble([images[index] for index in order])) == places(assemble(images))


def test_single_images_and_pairs_have_nothing_to_be_uneven() -> None:
    assert places(assemble(series(1))) == [[0]]
    (pair,) = assemble(series(2)).stacks
    assert pair.problem is None
    assert assemble([]) == Assembly((), ())
    np.testing.assert_allclose(assemble(series(1)).stacks[0].affine[:3, 2], [0, 0, 1])


def test_nothing_of_an_image_that_could_name_a_patient_is_printed() -> None:
    assert "secret" not in repr(Image("/secret/doe", "1.2.secret", (1, 1), None, None, None))


@pytest.mark.parametrize("damaged", [(0.0,) * 6, (1.0, 0, 0, 1, 0, 0), (2.0, 0, 0, 0, 1, 0), (float("nan"),) * 6])
def test_directions_that_are_none_belong_to_no_volume(damaged: tuple[float, ...]) -> None:
    images = [replace(image, orientation=damaged) for image in series()]
    found = assemble(images)
    assert found.stacks == ()
    assert {reason for _, reason in found.left} == {NO_GEOMETRY}


def test_two_images_shifted_against_each_other_are_tilted() -> None:
    pair = series(2)
    shifted = replace(pair[1], position=(-80.0, -80.0, -66.0))
    assert assemble([pair[0], shifted]).stacks[0].problem == TILTED
