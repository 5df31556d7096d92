"""A table's catalogue over the table's life: written once, grown, made again, never of other latents than there are."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import FormatVersionError, IntegrityError, LeaseLostError, StageOrderError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation, fit, locate_table
from medfuncta_dist.latent_table.catalogue import catalogue_build
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_store import (
    Listed,
    catalogue_objects,
    open_catalogue,
    present_catalogue,
    write_catalogue,
)
from medfuncta_dist.storage.commit_record import make_record
from medfuncta_dist.storage.digest import canonical_json, digest_json
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import packed, ready
from tests.unit.latents.fitted_table import stored


def present(store: ObjectStore, table: TableLocation) -> Catalogue | None:
    return present_catalogue(Listed.of(store, table.folder, table.shards))


def listed(catalogue: Catalogue) -> list[tuple[str, str, int]]:
    """Key, part and row of every scan."""
    paths = [part.path for part in catalogue.record.parts]
    rows = [row for rows in catalogue.tables() for row in rows.to_pylist()]
    return [(row["key"], paths[row["part"]], row["row"]) for row in rows]


def in_the_parts(store: ObjectStore, table: TableLocation) -> list[tuple[str, str, int]]:
    """The same, from the ledger."""
    found = []
    for commit in latent_ledger.read_commits(store, table.folder).values():
        if commit.part is not None and commit.shard in table.shards:
            keys = latent_ledger.table_format.read_part(store, table.folder, commit.part)["key"].to_pylist()
            found += [(key, commit.part.path, row) for row, key in enumerate(keys)]
    return sorted(found)


def test_it_lists_the_scans_of_all_parts_and_without_one_in_storage_it_is_made_here(
    run: RunFile, store: ObjectStore, table: TableLocation
) -> None:
    here = open_catalogue(store, table.folder, table.shards)
    assert (stored(store, table), present(store, table)) == ({}, None)
    assert listed(here) == in_the_parts(store, table)
    written = write_catalogue(store, table.folder, table.shards, ALONE)
    assert written.record == here.record
    assert listed(open_catalogue(store, table.folder, table.shards)) == listed(here)
    folder = Path(here._store.root) / here._folder
    assert folder.is_dir()
    del here
    gc.collect()
    assert not folder.exists()


def test_writing_it_twice_changes_nothing(store: ObjectStore, table: TableLocation) -> None:
    write_catalogue(store, table.folder, table.shards, ALONE)
    before = stored(store, table)
    write_catalogue(store, table.folder, table.shards, ALONE)
    assert stored(store, table) == before
    assert len(before) == 2


def test_it_grows_with_the_table_from_what_it_listed_and_the_new_parts(
    run: RunFile, store: ObjectStore, table: TableLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = write_catalogue(store, table.folder, table.shards, ALONE)
    packed(run, tmp_path, seed=1)
    fit(run, map_here)
    table = locate_table(run, store)
    assert present(store, table) is None
    read: list[str] = []
    original = catalogue_build.read_part_rows
    monkeypatch.setattr(
        catalogue_build, "read_part_rows", lambda s, f, commit: read.append(commit.part.path) or original(s, f, commit)
    )
    assert len(listed(open_catalogue(store, table.folder, table.shards))) == 62
    grown = write_catalogue(store, table.folder, table.shards, ALONE)
    assert listed(grown) == in_the_parts(store, table)
    assert not {part.path for part in former.record.parts} & set(read)
    assert len(read) == 2 * (len(grown.record.parts) - len(former.record.parts))
    assert len(stored(store, table)) == 2  # the former one is gone
    for path in stored(store, table):
        store.delete(path)
    assert write_catalogue(store, table.folder, table.shards, ALONE).record == grown.record


def test_new_scans_that_are_not_fitted_leave_it_as_it_is(run: RunFile, store: ObjectStore, tmp_path: Path) -> None:
    table = locate_table(run, store)
    write_catalogue(store, table.folder, table.shards, ALONE)
    packed(run, tmp_path, seed=1)
    assert present(store, locate_table(run, store)) is not None


def test_one_that_names_what_is_gone_is_not_used(store: ObjectStore, table: TableLocation) -> None:
    written = write_catalogue(store, table.folder, table.shards, ALONE)
    path = f"{table.folder}/{written.record.files[0].path}"
    data = store.read(path)
    store.write(path, data[:-1])
    assert present(store, table) is None
    store.write(path, data)
    assert present(store, table) is not None
    store.delete(f"{table.folder}/{written.record.parts[0].path}")
    assert present(store, table) is None
    for path in catalogue_objects(store, table.folder):
        store.delete(path)
    with pytest.raises(IntegrityError, match="missing"):
        open_catalogue(store, table.folder, table.shards)


def test_before_anything_is_fitted_there_is_none(tmp_path: Path) -> None:
    run = ready(tmp_path)
    store = ObjectStore(run.storage)
    table = locate_table(run, store)
    with pytest.raises(StageOrderError, match="no latents yet"):
        open_catalogue(store, table.folder, table.shards)


def test_a_driver_without_its_lease_writes_none(run: RunFile, store: ObjectStore, table: TableLocation) -> None:
    former = take(store, run_lease(run.name), 0.2, print)
    former.give_back()
    claim = take(store, run_lease(run.name), 60, print)
    with pytest.raises(LeaseLostError):
        write_catalogue(store, table.folder, table.shards, former.fence)
    assert present(store, table) is None
    found = write_catalogue(store, table.folder, table.shards, claim.fence)
    assert found.path.endswith(f"-g{claim.fence.token:09d}.json")
    assert present(store, table) is not None


def test_a_damaged_record_is_refused_and_fit_writes_it_again(store: ObjectStore, table: TableLocation) -> None:
    write_catalogue(store, table.folder, table.shards, ALONE)
    before = stored(store, table)
    record = next(path for path in before if path.endswith(".json"))
    store.write(record, before[record][:-1])
    with pytest.raises(IntegrityError):
        open_catalogue(store, table.folder, table.shards)
    write_catalogue(store, table.folder, table.shards, ALONE)
    assert stored(store, table) == before


def test_a_record_of_another_version_is_refused_and_not_written_over(store: ObjectStore, table: TableLocation) -> None:
    found = write_catalogue(store, table.folder, table.shards, ALONE)
    record = make_record("catalogue", found.record.body(), 0) | {"format_version": 9}
    del record["digest"]
    data = canonical_json(record | {"digest": digest_json(record)})
    store.write(found.path, data)
    with pytest.raises(FormatVersionError):
        write_catalogue(store, table.folder, table.shards, ALONE)
    assert store.read(found.path) == data
