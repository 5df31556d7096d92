"""A catalogue finds what it lists, by few bytes, and says when its bytes are not those that were committed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.latent_table.catalogue import catalogue_files
from medfuncta_dist.latent_table.catalogue.catalogue_files import write_files
from medfuncta_dist.latent_table.catalogue.catalogue_format import NARROW, CatalogueRecord
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Catalogue
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.latent_table.catalogue.entries import random_keys, rows_of

GROUP = 64
KEYS = sorted(random_keys(1000))


class CountingStore(ObjectStore):
    """Counts the bytes of ranged reads."""

    ranged = 0

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self.ranged += length
        return super().read_range(path, start, length)


def written(folder: Path, tables: list[pa.Table]) -> CatalogueRecord:
    files = write_files(tables, folder)
    return CatalogueRecord("0" * 64, sum(file.rows for file in files), "float32", 8, (), tuple(files))


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of four groups."""
    monkeypatch.setattr(catalogue_files, "ROW_GROUP", GROUP)
    monkeypatch.setattr(catalogue_files, "FILE_ROWS", 4 * GROUP)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return opened(tmp_path, written(tmp_path / "table", [rows_of(KEYS)]))


def opened(root: Path, record: CatalogueRecord) -> Catalogue:
    return Catalogue(CountingStore(str(root)), "table", record)


def test_every_key_is_found_and_no_other(catalogue: Catalogue) -> None:
    for place, key in enumerate(KEYS):
        (entry,) = catalogue.find(key)
        assert (entry.key, entry.part, entry.row, entry.labels) == (key, place // 7, place % 7, (place % 3,))
        assert (entry.psnr, entry.below_min, entry.split) == (place, place % 2 == 0, "train")
    for key in ("0" * 64, "f" * 64, KEYS[GROUP][:-1] + "!"):
        assert catalogue.find(key) == []


def test_a_beginning_finds_the_first_that_begin_so_across_groups(catalogue: Catalogue) -> None:
    for beginning in ("", "7", "80", KEYS[GROUP - 1][:3], KEYS[4 * GROUP][:2], KEYS[-1][:4]):
        expected = [key for key in KEYS if key.startswith(beginning)]
        assert [entry.key for entry in catalogue.find(beginning, most=300)] == expected[:300]
        assert len(catalogue.find(beginning)) == min(2, len(expected))


def test_columns_are_those_of_all_rows_in_order(catalogue: Catalogue) -> None:
    assert catalogue.columns(["key"])["key"].to_pylist() == KEYS
    assert catalogue.columns(NARROW).equals(rows_of(KEYS).select(NARROW))
    assert [table.num_rows for table in catalogue.tables()] == [256, 256, 256, 232]


def test_a_key_costs_one_group_and_once_the_footer(tmp_path: Path) -> None:
    record = written(tmp_path / "table", [rows_of(KEYS)])
    catalogue = opened(tmp_path, record)
    store: Any = catalogue._store
    catalogue.find(KEYS[100])
    first = store.ranged
    catalogue.find(KEYS[GROUP])  # of the same group
    assert store.ranged == first
    catalogue.find(KEYS[0])
    assert store.ranged - first < first < record.files[0].size / 2


def test_equal_rows_give_equal_files_however_they_arrive(tmp_path: Path) -> None:
    whole = rows_of(KEYS)
    cuts = [0, 3, 3, 250, 640, 1000]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(cuts)]
    assert written(tmp_path / "a", [whole]) == written(tmp_path / "b", pieces)
    files = [{path.name: path.read_bytes() for path in (tmp_path / f).rglob("*.parquet")} for f in "ab"]
    assert len(files[0]) == 4
    assert files[0] == files[1]


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="1 keys occur more than once"):
        write_files([rows_of([*KEYS[:5], KEYS[4]])], tmp_path)


def test_an_empty_table_has_no_files(tmp_path: Path) -> None:
    catalogue = opened(tmp_path, written(tmp_path / "table", []))
    assert catalogue.columns(NARROW).num_rows == 0
    assert catalogue.find("00000000") == []


@pytest.mark.parametrize("position", [*range(0, 20000, 997), -3, -9, -200])
def test_a_changed_byte_is_noticed_by_look_ups_and_listings(tmp_path: Path, position: int) -> None:
    record = written(tmp_path / "table", [rows_of(KEYS[: 4 * GROUP])])
    path = tmp_path / "table" / record.files[0].path
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 16
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        opened(tmp_path, record).columns(["key"])
    catalogue, refused, wrong = opened(tmp_path, record), 0, 0
    for key in KEYS[: 4 * GROUP : 16]:
        try:
            wrong += [entry.key for entry in catalogue.find(key)] != [key]
        except IntegrityError:
            refused += 1
    assert wrong == 0
    assert refused >= 4 or position % len(data) < 4  # all of a file's keys, or a group's; the first bytes are "PAR1"


def test_a_missing_file_and_one_of_another_version_are_named(tmp_path: Path) -> None:
    record = written(tmp_path / "table", [rows_of(KEYS)])
    (tmp_path / "table" / record.files[0].path).unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        opened(tmp_path, record).find(KEYS[0])
    with pytest.raises(IntegrityError, match="is missing"):
        opened(tmp_path, record).columns(["key"])
    wrong = replace(record.files[1], footer=record.files[1].footer - 1)
    with pytest.raises(IntegrityError, match="not the one that was committed"):
        opened(tmp_path, replace(record, files=(wrong,))).find(KEYS[-1])
