from __future__ import annotations

import json
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks.million.balance import Balance, balanced, made_keys, number_of, packed_balance
from benchmarks.million.counting_proxy import kind_of, name_of
from benchmarks.million.made_archive import POINTS, MadeArchive, csv_of, file_name, signals
from benchmarks.million.place import BUCKET, counting
from benchmarks.million.watched_driver import growth
from benchmarks.million_scans import MILLION, files_per_task, run_text, stages_of
from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.scans.private.private_folder import load_salt
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.benchmarks.test_benchmarks import result_of

SCANS = 1030


def write_files(folder: Path, archive: MadeArchive) -> None:
    folder.mkdir()
    for number in range(archive.files):
        (folder / file_name(number)).write_bytes(csv_of(signals(number, archive.rows(number))))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set of 1030 made scans, beside the private folder."""
    folder = tmp_path_factory.mktemp("million")
    write_files(folder / "archive", MadeArchive("", SCANS))
    text = run_text(folder, SCANS).replace(f"s3://{BUCKET}", str(folder))
    pack(parse(text, []), map_here, lambda _: None)
    return folder


def the_balance(folder: Path) -> Balance:
    made = made_keys(MadeArchive("", SCANS), load_salt(folder / "private"))
    return packed_balance(folder / "store" / "datasets" / "million", made)


def test_every_packed_scan_is_found_by_its_key_and_its_values(packed: Path) -> None:
    assert the_balance(packed) == Balance(SCANS, 0, 0, 0, 0)


def change_snapshot(folder: Path, change: Any) -> None:
    [file] = (folder / "store" / "datasets" / "million" / "snapshots").glob("*.json")
    found = json.loads(file.read_bytes())
    change(found["snapshot"]["splits"]["train"])
    file.write_text(json.dumps(found))


def test_what_is_lost_or_doubled_is_seen(packed: Path, tmp_path: Path) -> None:
    lost, doubled = tmp_path / "lost", tmp_path / "doubled"
    for folder in (lost, doubled):
        shutil.copytree(packed, folder)
    change_snapshot(lost, lambda shards: shards.pop())
    assert the_balance(lost).lost > 0
    change_snapshot(doubled, lambda shards: shards.append(shards[0]))
    found = the_balance(doubled)
    assert (found.lost, found.doubled) == (0, found.found - SCANS)
    assert found.doubled > 0
    assert not found.whole


def test_values_of_another_scan_are_seen(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "mistaken")
    tar = max((tmp_path / "mistaken" / "store").rglob("*.tar"), key=lambda file: file.stat().st_size)
    data = bytearray(tar.read_bytes())
    at = data.index(b"\x93NUMPY") + 128
    data[at : at + 4] = np.float32(0.5).tobytes()
    tar.write_bytes(data)
    assert the_balance(tmp_path / "mistaken") == Balance(SCANS, 0, 0, 0, 1)


def test_strange_keys_are_seen() -> None:
    assert balanced([b"a", b"b", b"b", b"x"], {b"a": 0, b"b": 1, b"c": 2}, 0) == Balance(4, 1, 1, 1, 0)


def test_a_made_file_is_the_same_at_any_time_and_its_scans_are_numbered() -> None:
    lines = csv_of(signals(12, 40)).decode().splitlines()
    assert lines == csv_of(signals(12, 40)).decode().splitlines()
    values = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    assert values.shape == (40, POINTS)
    np.testing.assert_allclose(values[:, 0], 0.012)
    np.testing.assert_allclose(values[:, 1], np.arange(40) / 1000)
    assert values[:, 2:].std() > 0.1
    assert MadeArchive("", 2500).files == 3
    assert len(set(MadeArchive("", 2500).places())) == 2500


def test_a_number_is_read_from_either_type() -> None:
    for kind in (np.float32, np.float64):
        header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
        text = f"{{'descr': '{np.dtype(kind).str}', 'fortran_order': False, 'shape': (1, 2), }}".ljust(118).encode()
        assert number_of(header + text + np.array([0.999, 0.021], kind).tobytes()) == 999_021


@pytest.mark.parametrize("scans", [5000, 50_000, MILLION])
def test_the_run_file_is_valid_and_every_stage_is_killed_before_its_end(scans: int, tmp_path: Path) -> None:
    run = parse(run_text(tmp_path, scans), [])
    assert isinstance(run, RunFile)
    pack_stage, train_stage, fit_stage = stages_of(scans)
    tasks = scans // 1000 // files_per_task(scans)
    assert 0 < pack_stage.node_after < pack_stage.driver_after < tasks
    assert 0 < fit_stage.node_after < fit_stage.driver_after < scans // 1024 * 2
    assert train_stage.driver_after == 1
    assert run.train.checkpoint_steps is not None
    assert run.train.steps > 3 * run.train.checkpoint_steps


def test_kinds_of_requests() -> None:
    root = "/million/store/"
    assert kind_of(f"{root}datasets/million/shards/0f.tar") == "shards"
    assert kind_of(f"{root}runs/million/latents/0f-1e/parts/2d.parquet") == "parts"
    assert kind_of(f"{root}runs/million/run.yaml") == "run"
    assert kind_of("/million/archive/000001.csv") == "archive"
    assert name_of("PUT", f"{root}runs/million/latents/0f-1e/commits/2d.json") == "PUT commits"
    listing = "/million?list-type=2&prefix=store%2Fdatasets%2Fmillion%2Fpacks%2F&delimiter="
    assert name_of("GET", listing) == "LIST packs"


def test_requests_are_counted_and_arrive_unchanged(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    with EmbeddedS3(tmp_path / "s3") as server, counting(server.endpoint) as endpoint:
        server.create_bucket(BUCKET)
        with patch.dict(os.environ, server.environment | {"AWS_ENDPOINT_URL": endpoint}):
            store = ObjectStore(f"s3://{BUCKET}/store")
            for number in range(3):
                store.write(f"datasets/million/shards/{number}.tar", data)
            assert store.read("datasets/million/shards/1.tar") == data
            assert len(store.list("datasets/million/shards")) == 3
        with urllib.request.urlopen(f"{endpoint}/counts") as answer:
            counts = json.load(answer)
    requests = counts["requests"]
    assert (requests["PUT shards"], requests["GET shards"], requests["LIST shards"]) == (3, 1, 1)
    assert 3 * len(data) <= counts["bytes"]["to server"] <= 3.1 * len(data)
    assert len(data) <= counts["bytes"]["from server"] <= 1.1 * len(data)


def test_growth_is_that_after_the_first_third_of_the_tasks() -> None:
    memory = [(0.0, 50.0), (10.0, 100.0), (20.0, 90.0), (40.0, 105.0), (90.0, 104.0), (95.0, 150.0)]
    found = growth(memory, 91.0)
    assert (found["first_third_mb"], found["later_mb"], found["at_the_end_mb"]) == (100, 105, 150)
    assert found["growth"] == pytest.approx(0.05)
    assert growth(memory[:1], 1000.0)["growth"] == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_million_scans() -> None:
    """Five thousand, killed in every stage. So short a stage is over before its driver's memory is all there."""
    result = result_of("million_scans", seconds=800)
    claims = {claim["what"]: claim for claim in result["claims"]}
    exact = [claim["met"] for what, claim in claims.items() if "growth" not in what]
    assert len(exact) == 6
    assert all(exact)
    for stage in ("pack", "train", "fit"):
        assert len(result["results"][stage]["driver_seconds"]) == 2
