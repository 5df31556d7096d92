from __future__ import annotations

import pytest

from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError


def parsed(data: str) -> RunFile:
    return parse(f"{{name: p, storage: 's3://bucket/p', data: {{source: 's3://archive/*.nii', {data}}}}}")


def test_the_shape_is_that_of_a_patch_and_is_left_out():
    run = parsed("patches: {size: [16, 16, 8], overlap: 2}")
    assert run.data.shape == [16, 16, 8]
    assert run.data.patches is not None
    assert run.data.patches.overlaps == (2, 2, 2)
    assert parse(dump(run)) == run


def test_a_preset_is_for_a_patch_what_it_is_for_a_scan_of_that_shape():
    text = (
        "{{name: p, storage: 's3://bucket/p', preset: 3d, field: {{latent: 99}}, "
        "data: {{source: 's3://archive/*.nii', {0}}}}}"
    )
    of_patch, of_scan = (parse(text.format(n)) for n in ("patches: {size: [16, 16, 8]}", "shape: [16, 16, 8]"))
    assert of_patch.field == of_scan.field
    assert of_patch.field.features is not None


def test_signals_keep_their_length_with_patches():
    with pytest.raises(RunFileError, match="leave length out"):
        parsed("patches: {size: [64]}, length: windows")


def test_without_patches_a_shape_is_needed():
    with pytest.raises(RunFileError, match="shape"):
        parsed("channels: 1")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("shape: [32, 32], patches: {size: [16, 16]}", "leave shape"),
        ("patches: {size: [16, 16], overlap: 9}", "at most half of size"),
        ("patches: {size: [16, 16], overlap: [2]}", "overlap has 1 numbers"),
        ("aspect: crop, patches: {size: [16, 16]}", "leave it out"),
    ],
)
def test_what_does_not_go_together_is_refused(data: str, said: str):
    with pytest.raises(RunFileError, match=said):
        parsed(data)


def test_an_epoch_visits_a_scan_as_often_as_it_draws_patches_and_without_patches_once():
    assert parsed("patches: {size: [8, 8]}").visits == 64
    assert parsed("shape: [8, 8]").visits == 1


def test_patches_to_draw_without_patches_are_refused():
    with pytest.raises(RunFileError, match="patches_per_scan = 8 does nothing without"):
        parse("{name: p, storage: /s, data: {source: /a, shape: [8, 8]}, train: {patches_per_scan: 8}}")


@pytest.mark.parametrize(
    ("latent", "fit", "most"),
    [
        (4096, "", 2**14),
        (4096, ", storage_type: int8", 2**16),
        (1, ", storage_type: int8", 2**24),  # as many row groups as of 16 bytes
    ],
)
def test_a_part_of_patches_is_bounded(latent: int, fit: str, most: int):
    text = (
        "{{name: p, storage: /s, data: {{source: /a, {0}}}, field: {{latent: {1}}}, fit: {{scans_per_task: {2}{3}}}}}"
    )
    sized = "patches: {size: [8, 8]}"
    assert parse(text.format(sized, latent, most, fit)).fit.range_scans == most
    with pytest.raises(RunFileError, match=f"at most {most}, or leave it out"):
        parse(text.format(sized, latent, most + 1, fit))
    assert parse(text.format("shape: [8, 8]", latent, most + 1, fit)).fit.range_scans == most + 1
