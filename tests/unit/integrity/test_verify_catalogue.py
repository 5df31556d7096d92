"""A catalogue is compared with the parts that it lists, and a damaged one is written again."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting.fit_driver import TableLocation
from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.integrity.verify_catalogue import repair_catalogue, verify_catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_files import write_files
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.records import write_record
from tests.unit.latents.fitted_table import stored


def test_every_byte_of_it_counts_and_a_damaged_one_is_written_again(store: ObjectStore, table: TableLocation) -> None:
    assert verify_catalogue(store, table.folder, table.shards) == ("missing", [])
    assert repair_catalogue(store, table.folder, table.shards, ALONE) is False
    write_catalogue(store, table.folder, table.shards, ALONE)
    before = stored(store, table)
    assert verify_catalogue(store, table.folder, table.shards) == ("whole", [])
    for path, data in before.items():
        store.write(path, data[:60] + bytes([data[60] ^ 1]) + data[61:])
        state, faults = verify_catalogue(store, table.folder, table.shards)
        assert (state, [fault.where for fault in faults]) == ("damaged", [store.uri(path)])
        assert repair_catalogue(store, table.folder, table.shards, ALONE) is True
        assert stored(store, table) == before


def test_one_of_other_rows_than_the_parts_is_damaged(store: ObjectStore, table: TableLocation, tmp_path: Path) -> None:
    found = write_catalogue(store, table.folder, table.shards, ALONE)
    (rows,) = found.tables()
    other = rows.set_column(4, rows.schema.field(4), [[True] * rows.num_rows])
    (file,) = write_files([other], tmp_path / "other")
    store.write(f"{table.folder}/{file.path}", (tmp_path / "other" / file.path).read_bytes())
    body = {**found.record.body(), "files": [vars(file) | {"firsts": list(file.firsts), "groups": list(file.groups)}]}
    write_record(store, found.path, "catalogue", body)
    state, faults = verify_catalogue(store, table.folder, table.shards)
    assert state == "damaged"
    assert "not that of these parts" in faults[0].what


def test_the_command_tells_of_it_and_repairs_it(
    run: RunFile, store: ObjectStore, table: TableLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfuncta_dist.integrity.verify.cpu_fan_out", lambda run: map_here)
    file = tmp_path / "run.yaml"
    file.write_text(dump(run))
    assert verify_target(str(file), [])["runs"][run.name]["latents"]["catalogue"] == "missing"
    write_catalogue(store, table.folder, table.shards, ALONE)
    before = stored(store, table)
    assert verify_target(str(file), [])["runs"][run.name]["latents"]["catalogue"] == "whole"
    path = next(path for path in before if path.endswith(".parquet"))
    store.write(path, before[path][:-9] + b"?" + before[path][-8:])
    with pytest.raises(IntegrityError, match=f"{store.uri(path)}: a file of the latent table's catalogue"):
        verify_target(str(file), [])
    said = verify_target(str(file), [], repair=True)["said"]
    assert any("the catalogue was damaged, and is written again" in line for line in said)
    assert stored(store, table)[path] == before[path]
    assert verify_target(str(file), [])["runs"][run.name]["latents"]["catalogue"] == "whole"
