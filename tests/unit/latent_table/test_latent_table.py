"""A latent table gives every library the same latents, of the same scans, whatever type they are stored in."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, MedfunctaError, RunFileError, StageOrderError
from medfuncta_dist.fitting.fit_driver import fit, latent_folder, locate_table
from medfuncta_dist.latent_table import ray_latents, scan_list
from medfuncta_dist.latent_table.arrow_batches import float_schema
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.table_format import latents_of
from medfuncta_dist.network.committed_network import published_network
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import LATENT, ready
from tests.unit.latents.principal import basis_run

STORED = ("float32", "float16", "int8", "int8 with units")


@pytest.fixture(scope="module", params=STORED)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    folder, stored = tmp_path_factory.mktemp("table"), request.param.split()[0]
    run = (
        basis_run(folder, storage_type=stored)
        if "units" in request.param
        else ready(folder, fit={"storage_type": stored})
    )
    fit(run, map_here)
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    folder = tmp_path_factory.mktemp("plain")
    run = ready(folder)
    fit(run, map_here)
    ObjectStore(run.storage).write(f"runs/{run.name}/run.yaml", dump(run).encode())
    (folder / "run.yaml").write_text(dump(run))
    return run


def expected(table: LatentTable) -> dict[str, np.ndarray]:
    """The latents by key, from the whole rows."""
    return dict(zip(table.rows["key"].to_pylist(), latents_of(table.rows), strict=True))


def test_numpy_arrow_pandas_and_torch_give_the_latents_of_the_keys(run: RunFile) -> None:
    table = LatentTable.open(run)
    latents = expected(table)
    assert table.keys == sorted(latents)
    assert np.array_equal(table.numpy(), np.stack([latents[key] for key in table.keys]))
    assert table.numpy().dtype == np.float32
    rows = table.arrow(["key", "latent"]).read_all()
    found = dict(zip(rows["key"].to_pylist(), latents_of(rows), strict=True))
    assert found.keys() == latents.keys()
    assert all(np.array_equal(found[key], latents[key]) for key in latents)
    frame = table.pandas(latents=True)
    assert all(np.array_equal(frame.loc[key, "latent"], latents[key]) for key in latents)
    items = [table.torch_dataset()[place] for place in (0, 7, -1)]
    for item, key in zip(items, (table.keys[0], table.keys[7], table.keys[-1]), strict=True):
        assert np.array_equal(item["latent"].numpy(), latents[key])


def test_a_filtered_table_is_the_chosen_scans_everywhere(plain: RunFile) -> None:
    table = LatentTable.open(plain)
    label = table.labels[0][0]
    chosen = table.filter(splits="test").filter(labels=[label])
    rows = [r for r in table.rows.to_pylist() if r["split"] == "test" and r["labels"][0] == label]
    assert 0 < len(rows) < len(table.filter(splits="test")) < len(table)
    keys = [row["key"] for row in rows]
    assert chosen.keys == keys == chosen.rows["key"].to_pylist() == list(chosen.pandas().index)
    assert chosen.splits == ["test"] * len(rows)
    assert chosen.labels == [row["labels"] for row in rows]
    assert chosen.psnr.tolist() == [row["psnr"] for row in rows]
    assert chosen.below_min.tolist() == [row["below_min"] for row in rows]
    assert np.array_equal(chosen.numpy(), np.array([row["latent"] for row in rows], np.float32))
    assert sorted(chosen.arrow(["key"]).read_all()["key"].to_pylist()) == keys
    assert chosen.torch_dataset().labels.tolist() == [label] * len(rows)
    assert chosen.find(keys[0]).key == keys[0]
    with pytest.raises(RunFileError, match="no fitted scans"):
        chosen.find(table.filter(splits="train").keys[0])


def test_a_table_of_no_scan_is_empty_everywhere(plain: RunFile) -> None:
    table = LatentTable.open(plain).filter(splits="none")
    assert (len(table), table.keys, table.rows.num_rows, table.numpy().shape) == (0, [], 0, (0, LATENT))
    assert table.arrow().read_all().num_rows == len(table.pandas(latents=True)) == len(table.torch_dataset()) == 0
    assert table.decode([]).shape == (0, 1, 12, 12)


def test_listing_and_finding_read_no_part(plain: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LatentTable.open(plain)
    keys = LatentTable.open(plain).rows["key"].to_pylist()
    monkeypatch.setattr("medfuncta_dist.latents.table_format.read_part", None)
    assert table.listing()["key"].to_pylist() == keys
    assert table.find(keys[5]).key == keys[5]
    assert len(table.filter(splits="test")) == 9
    assert "31 scans of 24 float32 numbers" in repr(table)


def test_a_row_is_the_stored_one_and_needs_its_part_alone(plain: RunFile) -> None:
    table = LatentTable.open(plain)
    for key in table.keys[::7]:
        assert table.row(key[:16]).to_pylist() == [r for r in table.rows.to_pylist() if r["key"] == key]


@pytest.mark.parametrize("few", [scan_list.FEW, 0])
def test_decoding_is_what_the_network_makes_of_each_key(
    plain: RunFile, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_list, "FEW", few)
    table = LatentTable.open(plain)
    keys = [table.keys[place] for place in (9, 2, 30, 2)]
    latents = expected(table)
    values = table.network.decode(torch.from_numpy(np.stack([latents[key] for key in keys])), (20, 16)).clamp(0, 1)
    assert np.array_equal(table.decode(keys, shape=(20, 16)), values.numpy())
    assert table.decode(keys[:2]).shape == (2, 1, 12, 12)
    with pytest.raises(RunFileError, match="no fitted scans"):
        table.decode([*keys, "0" * 64])


def test_many_keys_must_be_whole(plain: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LatentTable.open(plain)
    assert table.decode([table.keys[0][:10]]).shape == (1, 1, 12, 12)
    monkeypatch.setattr(scan_list, "FEW", 0)
    with pytest.raises(RunFileError, match="must be whole"):
        table.decode([table.keys[0][:10]])


def test_the_table_is_found_by_run_file_by_the_runs_uri_and_by_its_folders(plain: RunFile, tmp_path: Path) -> None:
    store = ObjectStore(plain.storage)
    folder = locate_table(plain, store).folder
    keys = LatentTable.open(plain).keys
    root = Path(plain.storage)
    for source in (root.parent / "run.yaml", f"{root}/runs/small", root / "runs" / "small", f"file://{root}/{folder}/"):
        assert LatentTable.open(source).keys == keys
    moved = tmp_path / "moved"
    moved.symlink_to(root)
    assert LatentTable.open(f"{moved}/{folder}").keys == keys


def test_a_table_of_other_settings_is_opened_by_its_folder(plain: RunFile) -> None:
    other = plain.model_copy(update={"fit": plain.fit.model_copy(update={"steps": 2})})
    fit(other, map_here)
    digest = published_network(ObjectStore(plain.storage), plain.name).digest
    folder = latent_folder(other, digest)
    table = LatentTable.open(f"{plain.storage}/{folder}")
    assert folder in repr(table)
    assert np.array_equal(table.numpy(), LatentTable.open(other).numpy())
    assert not np.array_equal(table.numpy(), LatentTable.open(plain).numpy())
    assert table.network.digest == digest


def test_what_is_no_table_is_refused_by_name(plain: RunFile, tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="no run here"):
        LatentTable.open(f"{plain.storage}/runs/other")
    with pytest.raises(RunFileError, match="cannot be read"):
        LatentTable.open(tmp_path / "none")
    with pytest.raises(IntegrityError, match="network that these latents belong to is gone"):
        LatentTable.open(f"{plain.storage}/runs/small/latents/{'0' * 16}-{'1' * 16}")
    with pytest.raises(StageOrderError, match="no latents yet"):
        LatentTable.open(ready(tmp_path))


def test_damage_to_a_part_is_noticed_when_its_latents_are_read(tmp_path: Path) -> None:
    run = ready(tmp_path)
    fit(run, map_here)
    table = LatentTable.open(run)
    part = next(Path(run.storage).rglob("parts/*.parquet"))
    data = part.read_bytes()
    part.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    for read in (table.numpy, lambda: table.rows, lambda: list(table.arrow()), lambda: list(table.torch_dataset())):
        with pytest.raises((IntegrityError, OSError), match="not the one that was committed"):
            read()


def test_a_column_that_is_not_there_is_refused(plain: RunFile) -> None:
    with pytest.raises(RunFileError, match="no column 'source'"):
        LatentTable.open(plain).arrow(["key", "source"])


# -- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_every_scan_once_in_any_order(run: RunFile, context: str) -> None:
    if context == "spawn" and run.fit.storage_type != "int8":
        pytest.skip("starting a process takes seconds: one storage type shows it")
    dataset = LatentTable.open(run).filter(splits="train").torch_dataset()
    latents = LatentTable.open(run, splits="train").numpy()
    loader = DataLoader(dataset, batch_size=4, shuffle=True, num_workers=2, multiprocessing_context=context)
    places = []
    for batch in loader:
        assert np.array_equal(batch["latent"].numpy(), latents[batch["place"]])
        places += batch["place"].tolist()
    assert sorted(places) == list(range(len(dataset)))


def test_a_pickled_dataset_is_small_and_works_where_the_folder_is_gone(plain: RunFile, tmp_path: Path) -> None:
    table = LatentTable.open(plain)
    dataset = table.torch_dataset()
    dataset[0]  # files are open
    data = pickle.dumps(dataset)
    assert len(data) < 10_000
    copy: Any = pickle.loads(data)
    copy._latents._folder = tmp_path / "gone" / "folder"
    assert np.array_equal(copy.batch(range(31))["latent"].numpy(), table.numpy())
    assert copy._latents._folder == dataset._latents._folder


def test_a_part_is_copied_once_and_only_if_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ready(tmp_path)
    fit(run, map_here)
    dataset = LatentTable.open(run).torch_dataset()
    read: list[str] = []
    original = table_format.read_part
    monkeypatch.setattr(table_format, "read_part", lambda s, f, p, c: read.append(p.path) or original(s, f, p, c))
    dataset[3]
    assert len(read) == 1
    for _ in range(2):
        list(dataset)
        assert len(read) == len(set(read)) == len(list(Path(run.storage).rglob("parts/*.parquet")))


def test_a_scan_without_the_label_has_minus_one(plain: RunFile) -> None:
    table = LatentTable.open(plain)
    assert table.torch_dataset(label=1).labels.tolist() == [-1] * len(table)
    assert table.torch_dataset().labels.tolist() == [labels[0] for labels in table.labels]
    with pytest.raises(IndexError):
        table.torch_dataset()[len(table)]


def test_on_s3_it_is_found_by_uri_and_loaded_by_forked_workers(tmp_path: Path, s3: Callable[[], str]) -> None:
    root = s3()
    run = ready(tmp_path, storage=root)
    fit(run, map_here)
    store = ObjectStore(root)
    store.write(f"runs/{run.name}/run.yaml", dump(run).encode())
    location = locate_table(run, store)
    write_catalogue(store, location.folder, location.shards, ALONE)
    table = LatentTable.open(f"{root}/{location.folder}")
    assert [table.find(key).key for key in table.keys[::6]] == table.keys[::6]
    latents = table.numpy()
    for batch in DataLoader(table.torch_dataset(), batch_size=9, num_workers=2, multiprocessing_context="fork"):
        assert np.array_equal(batch["latent"].numpy(), latents[batch["place"]])


# -- Ray and Hugging Face ---------------------------------------------------------------------------------------------


def test_the_tasks_of_a_ray_dataset_read_every_row_once(plain: RunFile) -> None:
    table = LatentTable.open(plain).filter(splits="train")
    schema = float_schema(table.storage, ["key", "latent"])
    source = ray_latents.PartDatasource(table._source, table._reads(), schema, row_bytes=300)
    for parallelism in (1, 3, 1000):
        tasks = source.get_read_tasks(parallelism)
        assert len(tasks) <= min(parallelism, len(table._reads()))
        rows = [row for task in tasks for block in task() for row in block.to_pylist()]
        assert sum(task.metadata.num_rows for task in tasks) == len(rows) == len(table)
        assert sorted(row["key"] for row in rows) == table.keys
    assert source.estimate_inmemory_data_size() == 300 * len(table)


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_dataset_has_every_row(plain: RunFile) -> None:
    table = LatentTable.open(plain).filter(splits="test")
    dataset = table.ray_dataset(["key", "latent"])
    assert dataset.count() == 9
    latents = expected(table)
    rows = dataset.take_all()
    assert sorted(row["key"] for row in rows) == table.keys
    assert all(np.array_equal(row["latent"], latents[row["key"]]) for row in rows)


def test_a_hugging_face_dataset_has_every_row_and_a_shard_per_part(plain: RunFile) -> None:
    pytest.importorskip("datasets")
    table = LatentTable.open(plain).filter(splits="train")
    dataset = table.hugging_face()
    assert dataset.num_shards == len({int(part) for part in table._scans.parts})
    latents = expected(table)
    rows = list(dataset)
    assert sorted(row["key"] for row in rows) == table.keys
    assert all(np.array_equal(np.asarray(row["latent"], np.float32), latents[row["key"]]) for row in rows)
    assert [row["labels"] for row in sorted(rows, key=lambda r: r["key"])] == table.labels


def test_without_the_library_it_is_said_what_to_install(plain: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MedfunctaError, match="datasets is not installed"):
        LatentTable.open(plain).hugging_face()
