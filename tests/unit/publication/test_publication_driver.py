"""A run is published, and read by programs that do not have this package."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError, StageOrderError
from medfuncta_dist.evaluation.decode import decode_key
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.publication import publication_driver
from medfuncta_dist.publication.publication_driver import Wanted, publish_run
from medfuncta_dist.publication.target import Target
from medfuncta_dist.shards.data_contract import recorded_contract
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.kinds import KINDS
from tests.records import write_record
from tests.traces import holding
from tests.unit.latents.fitted import COUNTS, LATENT, ready
from tests.unit.publication.published import STATEMENT, elsewhere, keys_by_id, publish, rows_of

SCANS = sum(COUNTS.values())
SHAPES = [(12, 12), (31, 17)]
TYPES = ("float32", "float16", "int8", "curved")
DECODE = """
import runpy
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq

for folder in sorted(Path().glob("*-published")):
    decoder = runpy.run_path(str(folder / "decode.py"))["Decoder"]()
    rows = pq.read_table(folder / "data/test-00000-of-00001.parquet")
    for number, shape in enumerate({shapes}):
        np.save(f"{{folder}}.{{number}}.npy", decoder.decode(rows.to_pylist(), shape))
    assert np.array_equal(decoder.decode(rows.to_pydict()), np.load(f"{{folder}}.0.npy"))
assert not any(name.startswith("medfuncta_dist") for name in sys.modules)
"""
LOAD = """
import json, os
from pathlib import Path
os.environ |= {"HF_HOME": "cache", "HF_HUB_OFFLINE": "1"}
from datasets import load_dataset

for folder in sorted(Path().glob("*-published")):
    found = load_dataset(str(folder))
    loaded = {name: [len(rows), rows.column_names, rows["id"][:], rows["latent"][:]] for name, rows in found.items()}
    Path(f"{folder}.json").write_text(json.dumps(loaded))
"""


def fitted(folder: Path, kind: str = "siren", **sections: Any) -> RunFile:
    run = ready(folder, kind, **sections)
    fit(run, map_here)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    return fitted(tmp_path_factory.mktemp("run"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "published"


def test_decode_py_gives_our_values_without_this_package(tmp_path: Path) -> None:
    published = {}
    for kind, storage_type in product(KINDS, TYPES):
        (tmp_path / f"{kind}-{storage_type}").mkdir()
        run = fitted(tmp_path / f"{kind}-{storage_type}", kind, fit={"storage_type": storage_type})
        published[kind, storage_type] = run, publish(run, tmp_path / f"{kind}-{storage_type}-published")
    elsewhere(tmp_path, DECODE.format(shapes=SHAPES))
    for (kind, storage_type), (run, publication) in published.items():
        target, keys = Path(publication.target), keys_by_id(publication)
        stored = json.loads((target / "latents.json").read_text())
        assert (stored["storage_type"], stored["numbers"]) == (storage_type.replace("curved", "float32"), LATENT)
        assert (stored["units"] is not None) == (kind == "basis" and storage_type == "int8")
        for number, shape in enumerate(SHAPES):
            values = np.load(f"{target}.{number}.npy")
            assert values.dtype == np.float32
            ours = [decode_key(run, keys[one], shape).values for one in rows_of(target, "test")["id"].to_pylist()]
            assert np.abs(values - np.stack(ours)).max() <= 1e-6


def test_datasets_loads_the_folder(tmp_path: Path) -> None:
    more = {"labels": True, "named": ("spacing", "window", "modality", "slice", "steps")}
    for storage_type in TYPES:
        (tmp_path / storage_type).mkdir()
        run = fitted(tmp_path / storage_type, fit={"storage_type": storage_type})
        publish(run, tmp_path / f"{storage_type}-published", file_bytes=1000, **more)
    elsewhere(tmp_path, LOAD)
    for storage_type in TYPES:
        target = tmp_path / f"{storage_type}-published"
        found = json.loads(Path(f"{target}.json").read_text())
        assert {split: loaded[0] for split, loaded in found.items()} == COUNTS
        for split, (_, columns, ids, latents) in found.items():
            rows = rows_of(target, split)
            assert (columns, ids) == (rows.column_names, rows["id"].to_pylist())
            assert np.array_equal(latents, np.stack(rows["latent"].to_pylist()))
        assert len(list(target.glob("data/train-*.parquet"))) > 1


def test_the_code_of_the_card_runs(run: RunFile, target: Path) -> None:
    publish(run, target)
    blocks = re.findall(r"```python\n(.*?)```", (target / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    offline = 'import os; os.environ |= {"HF_HOME": "../cache", "HF_HUB_OFFLINE": "1"}\n'
    printed = elsewhere(target, offline + "\n".join(blocks) + "\nprint(values.shape)")
    assert printed.splitlines()[-1] == "(4, 1, 12, 12)"


def test_the_card_says_what_is_in_it(run: RunFile, target: Path) -> None:
    publish(run, target, labels=True)
    text = (target / "README.md").read_text()
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter["license"] == "cc-by-4.0"
    assert matter["size_categories"] == ["n<1K"]
    files = {one["split"]: one["path"] for one in matter["configs"][0]["data_files"]}
    assert files == {split: f"data/{split}-*.parquet" for split in sorted(COUNTS)}
    psnr = np.array(rows_of(target, "test")["psnr"].to_numpy(), np.float64)
    assert f"| test | {len(psnr)} | {psnr.mean():.2f} ± {psnr.std():.2f} dB | {psnr.min():.1f}," in text
    for part in (
        "decode to images",
        STATEMENT.intended_use,
        "0: no, 1: yes",
        "12 × 12",
        "by sgd, 4 steps",
        f"{SCANS} scans are not known",
    ):
        assert part in text
    assert "\n\n\n" not in text


def test_the_checksums_cover_every_file_and_sha256sum_reads_them(run: RunFile, target: Path) -> None:
    publish(run, target)
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=target, capture_output=True, text=True, check=True)
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {line.removesuffix(": OK") for line in done.stdout.splitlines()} == files - {"SHA256SUMS"}
    card = target / "README.md"
    card.write_text(card.read_text() + " ")
    assert subprocess.run(check, cwd=target, capture_output=True, check=False).returncode != 0


def test_nothing_leads_back_to_the_owner(run: RunFile, target: Path) -> None:
    publication = publish(run, target, labels=True, named=("spacing", "window", "modality", "slice", "steps"))
    store = ObjectStore(run.storage)
    location = locate_table(run, store)
    rows = latent_ledger.load_table(store, location.folder)
    salt = store.read("datasets/small/dataset.json").decode()
    never = [
        *rows["key"].to_pylist(),
        location.snapshot.digest,
        location.network.digest,
        json.loads(salt)["body"]["salt"],
        run.storage,
        str(run.data.private),
        run.dataset + "/",
    ]
    assert holding(target, [text.encode() for text in never]) == {}
    assert holding(target, [rows_of(target)["id"][0].as_py().encode()])  # it looks into Parquet files
    published = SharedNetwork.load(target / "network")
    assert published.dataset_digest == ""
    assert published.contract["shape"] == [12, 12]
    assert published.contract.keys() < recorded_contract(store, run.dataset).keys()
    assert not {"affine", "key", "source", "split"} & set(rows_of(target).column_names)
    # Each row is some scan's, under an id of its own, and only the owner's list says which.
    by_key = {row["key"]: row for row in rows.to_pylist()}
    keys = keys_by_id(publication)
    for row in rows_of(target).to_pylist():
        assert row["latent"] == by_key[keys[row["id"]]]["latent"]
        assert row["labels"] == by_key[keys[row["id"]]]["labels"]
    assert publication.ids.stat().st_mode & 0o077 == 0


def test_ids_and_their_order_are_drawn_anew_each_time(run: RunFile, tmp_path: Path) -> None:
    first, second = (publish(run, tmp_path / name) for name in "ab")
    orders = []
    for publication in (first, second):
        ids, keys = rows_of(Path(publication.target), "train")["id"].to_pylist(), keys_by_id(publication)
        assert ids == sorted(ids)
        orders.append([keys[one] for one in ids])
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]
    assert not set(keys_by_id(first)) & set(keys_by_id(second))


def test_labels_and_other_columns_are_there_only_when_named(run: RunFile, tmp_path: Path) -> None:
    publish(run, tmp_path / "few")
    assert rows_of(tmp_path / "few").column_names == ["id", "latent", "psnr", "below_min"]
    publish(run, tmp_path / "more", labels=True, named=("steps", "spacing"), keys=True, splits=("test",))
    rows = rows_of(tmp_path / "more")
    assert rows.column_names == ["id", "labels", "latent", "psnr", "below_min", "spacing", "steps"]
    assert all(len(key) == 64 for key in rows["id"].to_pylist())
    assert rows.num_rows == COUNTS["test"]
    with pytest.raises(RunFileError, match="affine cannot be published"):
        publish(run, tmp_path / "affine", named=("affine",))


@pytest.mark.parametrize("said", [None, "", "yes", "Latents decode to images"])
def test_without_the_acknowledgement_nothing_is_written(run: RunFile, target: Path, said: str | None) -> None:
    with pytest.raises(RunFileError, match="pictures of patients") as refused:
        publish_run(run, str(target), Wanted(STATEMENT), said)
    assert '--acknowledge "latents decode to images"' in refused.value.do
    assert not target.exists()


def test_an_unfinished_table_is_not_published(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    store = ObjectStore(run.storage)
    folder = locate_table(run, store).folder
    record = store.list(f"{folder}/commits")[0].path
    store.delete(record)
    with pytest.raises(StageOrderError, match=r"\d packed scans are neither fitted nor quarantined"):
        publish(run, tmp_path / "published")
    assert not (tmp_path / "published").exists()


def test_a_damaged_part_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    store = ObjectStore(run.storage)
    part = store.list(f"{locate_table(run, store).folder}/parts")[-1].path
    data = bytearray(store.read(part))
    data[len(data) // 2] ^= 1
    store.write(part, bytes(data))
    with pytest.raises(IntegrityError, match="not the one that was committed"):
        publish(run, tmp_path / "there" / "published")
    assert list((tmp_path / "there").iterdir()) == []
    assert list((tmp_path / "private" / "publications").iterdir()) == []


def test_a_network_that_was_not_trained_to_its_end_is_not_published(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    store = ObjectStore(run.storage)
    body = json.loads(store.read("runs/small/network/commit.json"))["body"]
    write_record(store, "runs/small/network/commit.json", "network", body | {"step": 3})
    with pytest.raises(StageOrderError, match="trained for 3 of"):
        publish(run, tmp_path / "published")


def test_killed_before_its_end_there_is_no_publication(
    run: RunFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    before = sorted((Path(str(run.data.private)) / "publications").glob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(publication_driver, "write_checksums", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(run, target)
    assert list(target.parent.iterdir()) == []
    assert sorted((Path(str(run.data.private)) / "publications").glob("*")) == before
    publish(run, target)


def test_the_owners_list_is_there_before_the_publication(
    run: RunFile, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = Path(str(run.data.private)) / "publications"
    before, seen = set(lists.glob("*.csv")), []
    place = Target.place

    def placed(self: Target, staged: Path) -> None:
        seen.extend(set(lists.glob("*.csv")) - before)
        place(self, staged)

    monkeypatch.setattr(Target, "place", placed)
    assert seen == [publish(run, target).ids]


def test_a_publication_of_another_split_has_only_that(run: RunFile, target: Path) -> None:
    publication = publish(run, target, splits=("test",))
    assert {file.split for file in publication.files} == {"test"}
    with pytest.raises(RunFileError, match="no split nowhere") as refused:
        publish(run, target.with_name("other"), splits=("nowhere",))
    assert refused.value.do == "name one of: test, train"
