"""Curved latents from the fit stage to all that reads a latent table, for both kinds of field."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import FormatVersionError, IntegrityError, LostObjectError, MedfunctaError, RunFileError
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.exchange.export_latents import export_latents
from medfuncta_dist.exchange.import_latents import import_latents
from medfuncta_dist.exchange.latent_file import parse_latent
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import field
from medfuncta_dist.fitting import fit_driver, latent_ledger
from medfuncta_dist.fitting.decided_tables import recorded_tables, require_possible, tables_size
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.fit_task import fit_task
from medfuncta_dist.fitting.table_trial import chosen_rows, table_trial
from medfuncta_dist.forget.carried_latents import HeldLatents, carry, latent_keys, latent_rows
from medfuncta_dist.integrity import repair
from medfuncta_dist.integrity.damaged_latents import find_damaged_records, remove_damaged_records
from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.curved import stored_tables, stream_column
from medfuncta_dist.latents.curved.row_coder import RowCoder
from medfuncta_dist.latents.curved.stored_tables import path_of
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.neighbours.index_driver import make_index
from medfuncta_dist.neighbours.neighbour_search import Neighbours
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.probe.probe_driver import probe_run
from medfuncta_dist.scans.private.forgotten_list import latent_key
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.commit_record import read_records
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.task_map import Done, Failed, map_here
from tests.kinds import KINDS
from tests.unit.latents.fitted import network, packed, publish, run_file
from tests.unit.latents.principal import basis_run

COUNTS = {"train": 60, "test": 21}
SCANS = sum(COUNTS.values())


def with_fit(run: RunFile, **changes: Any) -> RunFile:
    return RunFile.model_validate(run.model_dump() | {"fit": run.fit.model_dump() | changes})


def siren_run(folder: Path) -> RunFile:
    run = run_file(folder, fit={"method": "gauss-newton", "steps": 6, "rate": None})
    packed(run, folder, counts=COUNTS)
    publish(run, network(run))
    return run


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """A run whose latents are stored in float32."""
    folder = tmp_path_factory.mktemp("run")
    run = basis_run(folder, COUNTS) if request.param == "basis" else siren_run(folder)
    assert fit(run, map_here).counts.fitted == SCANS
    return run


@pytest.fixture(scope="module")
def curved(plain: RunFile) -> RunFile:
    """The same scans and network."""
    run = with_fit(plain, storage_type="curved")
    summary = fit(run, map_here)
    assert (summary.counts.fitted, summary.storage_type) == (SCANS, "curved")
    parts = ObjectStore(run.storage).list(f"{summary.folder}/parts")
    assert summary.part_bytes == sum(part.size for part in parts)
    assert summary.shared_bytes == tables_size(ObjectStore(run.storage), summary.folder) > 0
    return run


def folder_of(run: RunFile) -> str:
    return locate_table(run, ObjectStore(run.storage)).folder


def objects(run: RunFile, *kinds: str) -> dict[str, bytes]:
    store, folder = ObjectStore(run.storage), folder_of(run)
    return {
        i.path: store.read(i.path) for i in store.list(folder) if i.path.removeprefix(folder).split("/")[1] in kinds
    }


def part_files(run: RunFile) -> list[Path]:
    return sorted((Path(run.storage) / folder_of(run) / "parts").iterdir())


def copied(run: RunFile, folder: Path) -> RunFile:
    shutil.copytree(run.storage, folder / "storage")
    return run.model_copy(update={"storage": str(folder / "storage")})


def test_the_loss_is_the_promised_one_and_the_psnr_that_of_the_stored_latent(plain: RunFile, curved: RunFile) -> None:
    store = ObjectStore(curved.storage)
    record = recorded_tables(store, folder_of(curved))
    assert record is not None
    assert record.loss <= record.bound == curved.fit.curved_loss
    if plain.field.kind == "basis":  # at random, a SIREN's latents matter too little to cost so much
        assert record.loss > 0.9 * record.bound
    for split in COUNTS:
        loss = float((LatentTable.open(plain, [split]).psnr - LatentTable.open(curved, [split]).psnr).mean())
        assert abs(loss) <= 2 * record.bound
    table = LatentTable.open(curved)
    shared = load_network(store, locate_table(curved, store).network)
    values = field(shared.spec, shared.params, grid(table.shape), torch.from_numpy(table.latents))
    decoded = table.decode(table.keys)
    assert np.abs(decoded.reshape(len(table), -1) - values.clamp(0, 1).flatten(1).numpy()).max() < 1e-5
    assert evaluate(curved, map_here)["largest_psnr_difference"] < 0.01


def test_readers_find_float32_latents_wherever_they_look(curved: RunFile) -> None:
    table = LatentTable.open(curved)
    assert table.storage == Storage("curved", table.latents.shape[1])
    assert table.rows["latent"].type == pa.list_(pa.float32(), table.storage.numbers)
    assert table.rows.schema.metadata[b"format_version"] == b"1"
    key = table.keys[7]
    one = table_format.latents_of(table.row(key))[0]
    assert (one == table.latents[7]).all()
    batches = table.arrow(["key", "latent"]).read_all()
    by_key = dict(zip(batches["key"].to_pylist(), batches["latent"].to_pylist(), strict=True))
    assert by_key[key] == one.tolist()
    dataset = table.torch_dataset()
    assert (dataset[7]["latent"].numpy() == one).all()
    assert len(table.filter(splits="nothing").rows) == 0
    path = Path(curved.storage) / "table.parquet"
    table_format.export(table.rows, path)
    again = table_format.parse_table(path.read_bytes(), "table.parquet")
    assert (table_format.latents_of(again) == table.latents).all()


def test_neighbours_probe_and_export_take_the_same_latents(curved: RunFile, tmp_path: Path) -> None:
    table = LatentTable.open(curved)
    make_index(curved, "plain", map_here)
    key = table.keys[5]
    (found,) = Neighbours.open(curved, "plain").search([key], count=3)
    distances = np.sort(np.linalg.norm(table.latents - table.latents[5], axis=1))
    assert [one.distance for one in found] == pytest.approx(distances[1:4].tolist(), rel=1e-4)
    if curved.field.kind == "basis":
        assert probe_run(curved)["scans"] == COUNTS
        return
    assert export_latents(curved, tmp_path / "out")["latents"] == SCANS
    written = parse_latent((tmp_path / "out" / "test" / "datapoint_0.pt").read_bytes(), table.storage.numbers).numbers
    assert any((np.asarray(written) == latent).all() for latent in table.filter("test").latents)


def test_one_row_is_read_without_decoding_the_others(curved: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    table, asked = LatentTable.open(curved), list[int]()
    decode = stored_tables.OpenTables.latents

    def counted(self: stored_tables.OpenTables, streams: list[bytes], where: str = "") -> np.ndarray:
        asked.append(len(streams))
        return decode(self, streams, where)

    monkeypatch.setattr(stored_tables.OpenTables, "latents", counted)
    table.row(table.keys[3])
    assert asked == [1]


def test_parts_hold_streams_that_parquet_does_not_compress(curved: RunFile) -> None:
    for path in part_files(curved):
        file = pq.ParquetFile(path)
        assert file.schema_arrow.field("latent").type == pa.binary()
        assert file.schema_arrow.metadata[b"format_version"] == b"3"
        group = file.metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i).compression for i in range(group.num_columns)}
        assert columns.pop("latent") == "UNCOMPRESSED"
        assert set(columns.values()) == {"ZSTD"}


def test_a_part_does_not_depend_on_how_ranges_are_cut_or_who_fits_them(curved: RunFile, tmp_path: Path) -> None:
    whole = LatentTable.open(curved)
    run = copied(curved, tmp_path)
    shutil.rmtree(Path(run.storage) / folder_of(run) / "commits")
    shutil.rmtree(Path(run.storage) / folder_of(run) / "parts")
    smaller = with_fit(run, scans_per_task=run.fit.batch)
    shutil.copytree(
        Path(run.storage) / folder_of(run) / "curved",
        Path(run.storage) / folder_of(smaller) / "curved",
        dirs_exist_ok=True,
    )
    assert fit(smaller, map_here).counts.fitted == SCANS
    again = LatentTable.open(smaller)
    assert again.keys == whole.keys
    assert (again.latents == whole.latents).all()


def test_a_killed_fit_goes_on_with_its_tables_and_gives_the_same_bytes(
    plain: RunFile, curved: RunFile, tmp_path: Path
) -> None:
    run = copied(curved, tmp_path)
    folder = Path(run.storage) / folder_of(run)
    good = objects(run, "parts", "curved", "commits")
    shutil.rmtree(folder)
    killed = iter(range(2))

    def killing(task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done | Failed]:
        for item in items:
            if task is fit_task and next(killed, None) is None:
                raise KeyboardInterrupt
            yield Done(item, task(item))

    with pytest.raises(KeyboardInterrupt):
        fit(run, killing)
    trials = list[Any]()

    def counting(task: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done | Failed]:
        trials.extend([task] * (task is table_trial))
        return map_here(task, items)

    fit(run, counting)
    assert not trials
    assert objects(run, "parts", "curved", "commits") == good
    for record, _ in read_records(ObjectStore(run.storage), f"{folder_of(run)}/curved", "curved-tables"):
        ObjectStore(run.storage).delete(record)
    part_files(run)[0].unlink()
    assert fit(run, counting).lost_parts == 1
    assert not trials
    assert objects(run, "parts") == {path: data for path, data in good.items() if "/parts/" in path}


def test_lost_or_damaged_tables_are_found_and_all_is_fitted_again(curved: RunFile, tmp_path: Path) -> None:
    run = copied(curved, tmp_path)
    store, good = ObjectStore(run.storage), objects(run, "parts", "curved")
    (path,) = [path for path in good if path.endswith(".safetensors")]
    assert find_damaged_records(store, folder_of(run)) == []
    stored_tables._opened.cache_clear()
    store.write(path, good[path][:-1] + b"\1")
    with pytest.raises(IntegrityError, match="not those that were written"):
        LatentTable.open(run).numpy()
    store.delete(path)
    with pytest.raises(LostObjectError, match="the tables of curved latents"):
        LatentTable.open(run).numpy()
    damaged = find_damaged_records(store, folder_of(run))
    assert len(damaged) == len(part_files(run))
    shutil.rmtree(Path(run.storage) / folder_of(run) / "commits")
    shutil.rmtree(Path(run.storage) / folder_of(run) / "parts")
    assert fit(run, map_here).counts.fitted == SCANS
    assert objects(run, "parts", "curved") == good


@pytest.mark.parametrize("how", ["shorter", "other bytes", "longer"])
def test_damaged_tables_are_not_taken_again_when_all_is_fitted_again(curved: RunFile, tmp_path: Path, how: str) -> None:
    run = copied(curved, tmp_path)
    store, good = ObjectStore(run.storage), objects(run, "parts", "curved")
    (path,) = [path for path in good if path.endswith(".safetensors")]
    damaged = {"shorter": b"", "other bytes": good[path][:-1] + b"\1", "longer": good[path] + b"\1"}[how]
    store.write(path, damaged)
    stored_tables._opened.cache_clear()
    remove_damaged_records(store, find_damaged_records(store, folder_of(run)), ALONE)
    assert part_files(run) == []
    assert fit(run, map_here).counts.fitted == SCANS
    assert objects(run, "parts", "curved") == good


def test_a_coder_that_differs_here_is_no_damage_and_repair_deletes_nothing(
    curved: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(curved, tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(run.model_dump_json())
    before = objects(run, "parts", "curved", "commits")
    encode = RowCoder.encode
    monkeypatch.setattr(RowCoder, "encode", lambda self, symbols: [one + b"\1" for one in encode(self, symbols)])
    stored_tables._opened.cache_clear()
    with pytest.raises(MedfunctaError, match="the coder of this machine") as caught:
        verify_target(str(file), [], True)
    assert not isinstance(caught.value, IntegrityError)
    with pytest.raises(MedfunctaError, match="the coder of this machine"):
        repair._latents(run, ObjectStore(run.storage), [])
    assert objects(run, "parts", "curved", "commits") == before


def test_verify_reads_streams_tables_and_their_record(curved: RunFile, tmp_path: Path) -> None:
    run = copied(curved, tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(run.model_dump_json())
    assert verify_target(str(file), [])["runs"][run.name]["latents"]["fitted"] == SCANS
    (record,) = (Path(run.storage) / folder_of(run) / "curved").glob("*.json")
    good = record.read_bytes()
    record.write_bytes(good.replace(b'"scans":60', b'"scans":61'))
    with pytest.raises(IntegrityError, match="curved-tables record"):
        verify_target(str(file), [])
    record.write_bytes(good)
    stored_tables._opened.cache_clear()
    (tables,) = record.parent.glob("*.safetensors")
    tables.write_bytes(tables.read_bytes()[:-1] + b"\1")
    with pytest.raises(IntegrityError, match="tables of curved latents"):
        verify_target(str(file), [])


def test_a_damaged_stream_is_an_error_and_never_another_latent_of_another_size(curved: RunFile) -> None:
    store, part = ObjectStore(curved.storage), part_files(curved)[0]
    data = part.read_bytes()
    table = table_format.parse_table(data, "here")
    opened = stored_tables.open_tables(store, folder_of(curved), table.schema.metadata[b"tables"].decode())
    rng = np.random.default_rng(0)
    for stream in table["latent"].to_pylist() * 20:
        changed = bytearray(stream + bytes(int(rng.integers(0, 3))))
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
        try:
            found = opened.latents([bytes(changed)], "here")
        except IntegrityError:
            continue
        assert found.shape == (1, opened.tables.latent)
        assert np.isfinite(found).all()


def test_carried_latents_are_the_same_streams(curved: RunFile, tmp_path: Path) -> None:
    run = copied(curved, tmp_path)
    store, target = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage))
    records = read_records(store, f"{target.folder}/commits", latent_ledger.KIND, latent_ledger.NAMES)
    commits = latent_ledger.read_commits(store, target.folder).values()
    held = HeldLatents(target.folder, [(path, c) for (path, _), c in zip(records, commits, strict=True)], frozenset())
    before = LatentTable.open(run)
    shards = [(work.split, replace(work.shard, sha256="9" * 24 + work.shard.sha256[24:])) for work in target.works[:1]]
    assert carry(store, held, shards, target.scans_per_task, ALONE) > 0
    new = [c for name, c in latent_ledger.read_commits(store, target.folder).items() if name.startswith("9" * 24)]
    keys = KeyMaker(b"s" * 32)
    known = latent_keys(store, held, before.keys[:1], keys)
    assert latent_key(keys, before.latents[0].tobytes()) in known
    assert len(known) == 2  # the stream's, too
    for commit in new:
        assert commit.part is not None
        rows = table_format.read_part(store, target.folder, commit.part)
        places = [before.keys.index(key) for key in rows["key"].to_pylist()]
        assert (table_format.latents_of(rows) == before.latents[places]).all()
        raw = table_format.read_stored_part(store, target.folder, commit.part)
        assert list(latent_rows(raw["latent"])) == raw["latent"].to_pylist()


def test_what_cannot_be_is_refused_before_the_fit(
    plain: RunFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = locate_table(plain, ObjectStore(plain.storage))
    without = replace(target.snapshot, splits={"test": target.snapshot.splits["test"]})
    with pytest.raises(RunFileError, match="has none"):
        require_possible(without)
    with pytest.raises(ValidationError, match="curved_loss is for storage_type curved"):
        with_fit(plain, curved_loss=0.1)
    if plain.field.kind == "siren":
        with pytest.raises(RunFileError, match="imported latents cannot be stored as curved"):
            import_latents(with_fit(plain, storage_type="curved"), str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(MedfunctaError, match="constriction"):
        require_possible(target.snapshot)


def test_parts_that_no_reader_takes_are_refused_before_the_work(
    plain: RunFile, curved: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(plain, tmp_path)
    largest = max(work.units for work in locate_table(run, ObjectStore(run.storage)).works)
    numbers = LatentTable.open(plain).storage.numbers
    monkeypatch.setattr(fit_driver, "LARGEST_PART", 4 * numbers * largest - 1)
    new = with_fit(run, storage_type="curved", curved_loss=0.3)
    with pytest.raises(RunFileError, match="larger than any that is read") as caught:
        fit(new, map_here)
    assert f"{largest - 1} or less" in caught.value.do
    assert objects(new, "curved", "parts") == {}


def test_the_size_of_a_part_is_that_of_all_its_batches(
    curved: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(curved, tmp_path)
    numbers = LatentTable.open(run).storage.numbers
    for name in ("commits", "parts"):
        shutil.rmtree(Path(run.storage) / folder_of(run) / name)
    monkeypatch.setattr(stream_column, "LARGEST_PART", 4 * numbers * run.fit.batch)
    with pytest.raises(IntegrityError, match="more than"):
        fit(run, map_here)
    sizes = [work.units for work in locate_table(run, ObjectStore(run.storage)).works]
    assert max(sizes) > run.fit.batch
    parts = [pq.read_metadata(pa.BufferReader(data)) for data in objects(run, "parts").values()]
    assert all(part.num_rows <= run.fit.batch for part in parts)


@pytest.mark.parametrize("lost", ["shard", "index", "bytes"])
def test_tables_are_made_without_a_training_shard_that_is_lost_or_damaged(
    plain: RunFile, tmp_path: Path, lost: str
) -> None:
    run = copied(plain, tmp_path)
    run = run.model_copy(update={"cluster": run.cluster.model_copy(update={"cache": str(tmp_path / "cache")})})
    store = ObjectStore(run.storage)
    *others, shard = locate_table(run, store).snapshot.splits["train"]
    if lost == "bytes":
        store.write(shard.uri, bytes(shard.size))
    else:
        store.delete(shard.uri if lost == "shard" else shard.index_uri)
    new = with_fit(run, storage_type="curved", curved_loss=0.3, splits=["test"])
    if not others:
        with pytest.raises(MedfunctaError, match="0 training scans can be fitted"):
            fit(new, map_here)
        return
    assert fit(new, map_here).counts.fitted == COUNTS["test"]
    assert recorded_tables_of(new).scans == COUNTS["train"] - shard.samples


def test_a_training_shard_of_another_version_stops_the_fit(
    plain: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise FormatVersionError("an index of another version")

    new = with_fit(copied(plain, tmp_path), storage_type="curved", curved_loss=0.3, splits=["test"])
    monkeypatch.setattr(SampleReader, "keys", unknown)
    with pytest.raises(FormatVersionError, match="another version"):
        fit(new, map_here)


def test_few_large_shards_are_downloaded_and_many_small_ones(plain: RunFile) -> None:
    one = locate_table(plain, ObjectStore(plain.storage)).snapshot.splits["train"][0]
    rows = chosen_rows([replace(one, samples=1000)] * 100 + [replace(one, samples=0)])
    shards = sorted({shard for shard, _ in rows})
    assert len(set(rows)) == len(rows) == 1024
    assert (len(shards), shards[0], shards[-1]) == (16, 0, 99)
    assert max(np.diff(shards)) <= 7
    assert len({shard for shard, _ in chosen_rows([replace(one, samples=8)] * 1000)}) == 128
    assert len(chosen_rows([replace(one, samples=8)] * 1000)) == 1024


def test_training_scans_are_spread_over_all_shards(plain: RunFile) -> None:
    shards = locate_table(plain, ObjectStore(plain.storage)).snapshot.splits["train"]
    assert chosen_rows(shards) == [(i, row) for i, shard in enumerate(shards) for row in range(shard.samples)]
    few = chosen_rows(shards, 10)
    assert len(few) == 10
    assert len({shard for shard, _ in few}) == min(len(shards), 10)


def recorded_tables_of(run: RunFile) -> Any:
    return recorded_tables(ObjectStore(run.storage), folder_of(run))


def test_tables_are_under_their_digest(curved: RunFile) -> None:
    record = recorded_tables_of(curved)
    assert ObjectStore(curved.storage).size(path_of(folder_of(curved), record.tables)) > 0
    assert record.scans == COUNTS["train"]
