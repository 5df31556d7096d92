"""Near-duplicates of a fitted run with a copy across splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import StageOrderError
from medfuncta_dist.fanout import ray_fan_out
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.neighbours import duplicates_report
from medfuncta_dist.neighbours.duplicates_report import describe, near_duplicates, report_path
from medfuncta_dist.neighbours.index_driver import make_index
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.cli.calls import call, call_json
from tests.unit.exchange.test_latents import here, public_folder, started
from tests.unit.latents.fitted import network, publish, run_file
from tests.writers import structured

TRAIN, TEST, COPIED, CHANGED = 40, 10, 3, 5


def archive(folder: Path) -> None:
    """Pictures; the test split's second is equal to one for training, its third but for one grey value in one point."""
    pictures = {
        split: np.stack([np.rint(structured((12, 12), seed + n, n % 2) * 255) for n in range(count)]).astype(np.uint8)
        for split, seed, count in (("train", 0, TRAIN), ("test", 1000, TEST))
    }
    pictures["test"][1] = pictures["train"][COPIED]
    pictures["test"][2] = pictures["train"][CHANGED]
    pictures["test"][2, 5, 5] ^= 1
    (folder / "archive").mkdir()
    labels = {f"{split}_labels": (np.arange(len(found)) % 2)[:, None] for split, found in pictures.items()}
    arrays = {f"{split}_images": found for split, found in pictures.items()} | labels
    np.savez(folder / "archive" / "scans.npz", **arrays)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    folder = tmp_path_factory.mktemp("copies")
    archive(folder)
    run = run_file(folder, kind="basis")
    pack(run, map_here, lambda _: None)
    publish(run, network(run))
    fit(run, map_here)
    make_index(run, "image", map_here)
    (folder / "run.yaml").write_text(dump(run))
    return run


def keys_by_item(run: RunFile) -> dict[str, str]:
    store = ObjectStore(run.storage)
    shards = [s for listed in load_snapshot(store, run.dataset, None).splits.values() for s in listed]
    rows = [row for shard in shards for row in read_index(store, shard).to_pylist()]
    return {row["item"]: row["key"] for row in rows}


def test_copies_across_splits_are_told_and_nothing_else(run: RunFile) -> None:
    report = near_duplicates(run, "image", map_here)
    items = keys_by_item(run)
    expected = [{items["test/1"], items[f"train/{COPIED}"]}, {items["test/2"], items[f"train/{CHANGED}"]}]
    assert [set(one["keys"]) for one in report["listed_pairs"]] == expected
    assert (report["pairs"], report["across_splits"], report["scans"]) == (2, 2, TRAIN + TEST)
    assert report["listed_pairs"][0]["distance"] == pytest.approx(0, abs=1e-6)
    assert 0 < report["listed_pairs"][1]["distance"] <= report["threshold"] < report["median_distance"]
    (folder,) = (Path(run.storage) / "runs/small/neighbours").iterdir()
    path = report_path(f"runs/small/neighbours/{folder.name}", "image")
    assert json.loads(ObjectStore(run.storage).read(path)) == json.loads(json.dumps(report))
    assert "2 in different splits" in describe(report)[1]


def test_a_threshold_of_ones_own(run: RunFile) -> None:
    assert near_duplicates(run, "image", map_here, threshold=0.0)["pairs"] <= 1
    assert near_duplicates(run, "image", map_here, threshold=1e9)["pairs"] > TRAIN


def test_scans_are_searched_in_ray_tasks(run: RunFile, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = near_duplicates(run, "image", map_here)
    monkeypatch.setattr(duplicates_report, "SMALL_SCANS", 0)
    monkeypatch.setattr(duplicates_report, "SCANS_PER_TASK", 16)
    assert near_duplicates(run, "image", ray_fan_out(2, num_cpus=1)) == here


def test_without_an_index_it_says_how_to_make_one(run: RunFile) -> None:
    with pytest.raises(StageOrderError, match="no index"):
        near_duplicates(run, "whitened", map_here)


def test_patients_in_several_splits_are_listed() -> None:
    import pyarrow as pa

    places = [
        pa.table({"group": ["p", "q", ""], "split": ["train"] * 3}),
        pa.table({"group": ["q", "r", ""], "split": ["test"] * 3}),
    ]
    assert duplicates_report._in_several(places) == {"q": ["test", "train"]}


def test_of_a_data_set_that_names_no_patient_it_does_not_say_how_many_are_in_several_splits(run: RunFile) -> None:
    make_index(run, "plain", map_here)
    report = near_duplicates(run, "plain", map_here)
    assert report["patients_in_several_splits"] is None
    assert "patients are not known" in describe(report)[1]


def test_of_imported_latents_without_scans_no_patient_is_known(tmp_path: Path) -> None:
    imported, _ = started(tmp_path)
    here(imported, public_folder(tmp_path))
    make_index(imported, "plain", map_here)
    report = near_duplicates(imported, "plain", map_here, threshold=1e9)
    assert report["pairs"] > 0
    assert {pair["same_patient"] for pair in report["listed_pairs"]} == {None}
    assert report["patients_in_several_splits"] is None


def test_the_commands(run: RunFile, capfd: pytest.CaptureFixture[str]) -> None:
    file = str(Path(run.storage).parent / "run.yaml")
    made = call_json(capfd, "index", file, "--metric", "plain")
    assert (made["kind"], made["recall"], made["scans"]) == ("exact", 1.0, TRAIN + TEST)
    items = keys_by_item(run)
    found = call_json(capfd, "neighbours", file, "--key", items["test/1"][:20], "--count", "3", "--split", "train")
    assert next(one["key"] for one in found["neighbours"]) == items[f"train/{COPIED}"]
    assert len(found["neighbours"]) == 3
    code, printed = call(capfd, "near-duplicates", file)
    assert code == 0
    assert items["test/1"][:12] in printed
    assert call(capfd, "neighbours", file, "--key", "0" * 64)[0] == 2
    assert call(capfd, "index", file, "--metric", "cosine")[0] == 2
    assert call(capfd, "index", file, "--kind", "hnsw")[0] == 2
