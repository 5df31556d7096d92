"""The two parts of a table of patches: what is written is read again, and anything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format import patch_rows, scan_rows
from medfuncta_dist.latents.patch_format.patch_rows import GROUP_BYTES, PatchRows, grid_metadata, grid_of
from medfuncta_dist.latents.patch_format.row_groups import GroupedFile
from medfuncta_dist.latents.patch_format.scan_rows import ScanRow, TableFacts
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.storage.object_store import ObjectStore

IDENTITY = {"network": "n", "fit": "f", **grid_metadata((4, 6), (1, 2))}
FACTS = TableFacts((4, 6), (1, 2), Storage("float16", 300), 20.5)
LATENT, ROWS = 300, 70


def rows() -> PatchRows:
    random = np.random.default_rng(1)
    return PatchRows(
        keys=[f"{i // 7:064x}" for i in range(ROWS)],
        patches=np.arange(ROWS, dtype=np.int32) % 7,
        latents=random.integers(-100, 100, (ROWS, LATENT)).astype(np.int8),
        scales=random.random(ROWS).astype(np.float32),
        psnr=random.random(ROWS).astype(np.float32),
        below_min=np.arange(ROWS) % 2 == 0,
        steps=np.full(ROWS, 3, np.int32),
        squared_errors=random.random(ROWS),
        points=np.full(ROWS, 24, np.int64),
    )


def scan(**changes: object) -> ScanRow:
    facts = {"key": "a" * 64, "split": "train", "labels": [1], "shape": [9, 9], "window_low": 0.0, "window_high": 1.0}
    facts |= {"spacing": [1.0, 2.0], "affine": None, "modality": "CT", "slice": None, "patches": 6, "rows": 4}
    facts |= {"first_patch": 2, "first_row": 5, "squared_error": 0.5, "points": 96}
    facts |= {"worst_psnr": 20.0, "worst_patch": 3}
    return ScanRow(**(facts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("storage_type", patch_rows.NUMBER_TYPES)
def test_a_part_of_patches_is_read_as_it_was_written(tmp_path: Path, storage_type):
    store = ObjectStore(str(tmp_path))
    units = np.linspace(0.5, 2, LATENT, dtype=np.float32) if storage_type == "int8" else None
    table = patch_rows.part_table(rows(), LATENT, storage_type, IDENTITY, units)
    ref = patch_rows.write_part(store, "t", table)
    found = patch_rows.read_part(store, "t", ref)
    assert found.equals(table)
    assert grid_of(found.schema, "") == ((4, 6), (1, 2))
    opened = GroupedFile(store, "t", ref)
    patch_rows.check_schema(opened.schema, "")
    columns = [name for name in ("latent", "scale") if name in table.column_names]
    latents = table_format.latents_of(opened.take(range(ROWS), columns))
    assert np.array_equal(latents, table_format.latents_of(table))
    expected = rows().latents * rows().scales[:, None] * units if units is not None else rows().latents
    assert np.allclose(latents, expected)
    width = LATENT * np.dtype(storage_type).itemsize
    assert all(group.num_rows * width <= GROUP_BYTES for group in opened._groups)


def test_a_latent_larger_than_a_group_has_one_of_its_own(tmp_path: Path):
    wide = PatchRows(["k", "k"], np.arange(2), np.zeros((2, GROUP_BYTES), np.float32), None, *[np.zeros(2)] * 5)
    table = patch_rows.part_table(wide, GROUP_BYTES, "float32", IDENTITY)
    store = ObjectStore(str(tmp_path))
    assert [g.num_rows for g in GroupedFile(store, "t", patch_rows.write_part(store, "t", table))._groups] == [1, 1]


def test_a_part_of_scans_is_read_as_it_was_written(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    table = scan_rows.part_table([scan(), scan(key="b" * 64, affine=[1.0] * 16, slice=3)], IDENTITY | FACTS.metadata())
    found = scan_rows.read_part(store, "t", scan_rows.write_part(store, "t", table))
    assert found.equals(table)
    assert scan_rows.facts_of(found.schema, "") == FACTS


@pytest.mark.parametrize(
    ("check", "schema"),
    [
        (patch_rows.check_schema, patch_rows.schema(5, "int8", IDENTITY)),
        (scan_rows.check_schema, scan_rows.schema(IDENTITY | FACTS.metadata())),
    ],
)
def test_other_kinds_versions_columns_and_grids_are_refused(check, schema):
    check(schema, "here")

    def changed(**metadata: str) -> pa.Schema:
        return schema.with_metadata(schema.metadata | {k.encode(): v.encode() for k, v in metadata.items()})

    for wrong in (changed(format_version="4"), changed(kind="latents"), table_format.schema(5, "int8", {})):
        with pytest.raises(FormatVersionError, match="is not version 3 of kind"):
            check(wrong, "here")
    grids = [("0,6", "1,2"), ("0,6", "0,2"), ("1,6", "0,2"), ("4,6", "1,4"), ("4,6", "1,-1")]
    of_no_grid = [changed(size=size, overlap=overlap) for size, overlap in grids]
    for wrong in (schema.remove(2), changed(size="4"), changed(overlap="1,x"), *of_no_grid):
        with pytest.raises(IntegrityError):
            check(wrong, "here")
    with pytest.raises(FormatVersionError):
        table_format.check_schema(schema, "here")


@pytest.mark.parametrize("wrong", [{"min_psnr": "x"}, {"numbers": "0"}, {"storage_type": "float8"}])
def test_a_part_of_scans_must_tell_what_its_table_is(wrong):
    with pytest.raises(IntegrityError, match="tell"):
        scan_rows.check_schema(scan_rows.schema(IDENTITY | FACTS.metadata() | wrong), "here")
