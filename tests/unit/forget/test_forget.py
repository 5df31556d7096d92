"""Forgetting, on really packed, fitted and evaluated scans."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError, RunHeldError
from medfuncta_dist.evaluation.comparison.comparison_driver import FOLDER as COMPARISONS
from medfuncta_dist.evaluation.comparison.comparison_driver import compare_command
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.forget import forget_driver
from medfuncta_dist.forget.forget_driver import Asked, Forgot, forget, open_place, preview
from medfuncta_dist.forget.patient_names import PatientName
from medfuncta_dist.integrity.repair_shards import repair_shards
from medfuncta_dist.integrity.verify_shards import verify_snapshot
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.neighbours.duplicates_report import near_duplicates
from medfuncta_dist.neighbours.index_driver import make_index
from medfuncta_dist.neighbours.neighbour_search import Neighbours
from medfuncta_dist.packing.sources.copy_conflicts import FILE as COPY_CONFLICTS
from medfuncta_dist.probe.probe_model import model_path
from medfuncta_dist.probe.probe_record import record_path
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.scans.private import forgotten_list
from medfuncta_dist.scans.private.forgotten_list import LIST_FILE, read_list
from medfuncta_dist.shards.forgotten_record import ProofRecord, read_forgotten
from medfuncta_dist.shards.shard_looks import looks_path, read_looks
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.shards.split_look_alikes import FILE as LOOK_ALIKES
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.leases.lease import dataset_lease, run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.traces import holding
from tests.unit.forget.archives import (
    EACH,
    PATIENTS,
    Scan,
    archive,
    copied,
    finished,
    fitted,
    keys_of,
    latents,
    packed,
    picture,
    run_of,
    scans,
)
from tests.unit.latents.fitted import network, publish
from tests.writers import write_ecg_csv, write_medmnist, write_png

PATIENT = "patient_003"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    finished(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFile:
    return copied(made, tmp_path / "run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def patient(run: RunFile, *names: str) -> list[Forgot]:
    return forget(open_place(run), Asked(patients=tuple(map(PatientName, names or (PATIENT,)))), map_here)


def by_key(run: RunFile, *keys: str) -> list[Forgot]:
    return forget(open_place(run), Asked(keys=keys), map_here)


def traces_of(gone: list[Scan], table: dict[str, list[float]]) -> list[bytes]:
    """Keys, as reports show them, values and latents."""
    keys = [key[:12].encode() for scan in gone for key in (scan.key, scan.source)]
    return [
        *keys,
        *(s.npy for s in gone),
        *(np.array(table[s.key], np.float32).tobytes() for s in gone if s.key in table),
    ]


def looks(run: RunFile) -> dict[str, bytes]:
    """The looks of all scans of the newest snapshot, by key."""
    store, found = ObjectStore(run.storage), {}
    for shards in load_snapshot(store, run.dataset, None).splits.values():
        for shard in shards:
            held = read_looks(store, run.dataset, shard)
            assert held is not None
            found |= dict(zip(read_index(store, shard)["key"].to_pylist(), map(np.ndarray.tobytes, held), strict=True))
    return found


def names_of(run: RunFile, kind: str) -> set[str]:
    return {Path(info.path).stem for info in ObjectStore(run.storage).list(f"datasets/{run.dataset}/{kind}")}


def whole(run: RunFile) -> None:
    store = ObjectStore(run.storage)
    assert names_of(run, "looks") <= names_of(run, "shards")
    assert verify_snapshot(store, load_snapshot(store, run.dataset, None), map_here, lambda progress: None) == []


def test_a_forgotten_patient_is_nowhere_and_all_others_are_as_they_were(run: RunFile, folder: Path) -> None:
    before, table = scans(run), latents(run)
    gone = [before[key] for key in keys_of(folder, PATIENT)]
    assert len(gone) == EACH
    wanted = [*traces_of(gone, table), gone[0].group.encode()]
    assert set(holding(folder / "storage", wanted))  # what is looked for can be found
    (done,) = patient(run)
    assert holding(folder / "storage", wanted) == {}
    left = {key: scan for key, scan in before.items() if scan not in gone}
    assert scans(run) == left
    assert latents(run) == {key: latent for key, latent in table.items() if key in left}
    assert done.carried > 0
    assert (done.record.scans, done.record.sources, done.record.patients) == (EACH, EACH, 1)
    assert (done.proof.found, done.proof.scans, done.proof.latents, done.proof.versioned) == (0, EACH, EACH, "no")
    assert done.trained == ("small",)
    whole(run)


def test_the_catalogue_of_a_table_that_held_it_is_gone_and_the_next_fit_writes_one(run: RunFile, folder: Path) -> None:
    gone = keys_of(folder, PATIENT)
    catalogues = sorted((folder / "storage").rglob("catalogue/*"))
    assert [path.suffix for path in catalogues].count(".json") == 1
    assert all(LatentTable.open(run).find(key).key == key for key in gone)
    patient(run)
    assert list((folder / "storage").rglob("catalogue/*")) == []
    fitted(run)
    assert len(list((folder / "storage").rglob("catalogue/*"))) == 2
    table = LatentTable.open(run)
    assert table.keys == sorted(latents(run))
    for key in gone:
        with pytest.raises(RunFileError, match="no fitted scans"):
            table.find(key)


def test_indexes_of_neighbours_that_hold_the_scans_go_and_are_made_again_without_them(
    run: RunFile, folder: Path
) -> None:
    """Vectors of the plain metric are the latents themselves, which a search by key would never find in an index."""
    before, table = scans(run), latents(run)
    make_index(run, "plain", map_here)
    near_duplicates(run, "plain", map_here, threshold=1e9)
    gone = [before[key] for key in keys_of(folder, PATIENT)]
    below = folder / "storage/runs/small/neighbours"
    assert holding(below, traces_of(gone, table))
    asked = Asked(patients=(PatientName(PATIENT),))
    assert preview(open_place(run), asked).indexes == sum(path.is_file() for path in below.rglob("*"))
    patient(run)
    assert holding(folder / "storage", traces_of(gone, table)) == {}
    assert not [path for path in below.rglob("*") if path.is_file()]
    make_index(run, "plain", map_here)
    kept = sorted(set(table) - {scan.key for scan in gone})
    found = Neighbours.open(run, "plain").search(kept[:1], len(table))[0]
    assert sorted([kept[0], *(one.key for one in found)]) == kept


def test_a_probe_of_latents_that_go_goes_and_one_of_other_scans_stays(run: RunFile, folder: Path) -> None:
    report = folder / "storage/runs/small/report"
    files = {report / Path(path).name for path in (model_path("small"), record_path("small"), "probe.png")}
    for file in files:
        file.write_bytes(b"{}")
    asked = Asked(patients=(PatientName(PATIENT),))
    named = preview(open_place(run), asked).reports
    picture(folder, 1, 9).write_bytes(b"no picture")
    by_key(run, next(one["key"] for one in packed(run).quarantined))
    assert all(file.exists() for file in files)
    patient(run)
    assert not any(file.exists() for file in files)
    assert named >= len(files)


def test_comparisons_in_the_private_folder_that_show_the_scans_go(run: RunFile, folder: Path) -> None:
    other = run.model_copy(update={"name": "other", "data": run.data.model_copy(update={"dataset": "small"})})
    publish(other, network(other, latent=6))
    fitted(other)
    evaluate(other, map_here)
    content = compare_command(run, other, "test", None, 1)
    pages = folder / "private" / COMPARISONS
    shutil.copytree(pages / "small-other", pages / "of-others")
    (pages / "of-others" / "comparison.json").write_text("{}")
    assert len(list((pages / "small-other").iterdir())) == 2
    by_key(run, [*content["losers"], *content["gainers"]][0]["key"])
    assert list((pages / "small-other").iterdir()) == []
    assert len(list((pages / "of-others").iterdir())) == 2


def test_an_index_of_other_scans_stays_and_what_a_killed_process_left_goes(run: RunFile, folder: Path) -> None:
    """What no record names cannot be told from an index that holds the scans."""
    store = ObjectStore(run.storage)
    make_index(run, "plain", map_here)
    before = [info.path for info in store.list("runs/small/neighbours")]
    (folder / "archive" / "patient_900").mkdir()
    write_png(picture(folder, 900), (12, 12), seed=77)
    packed(run)
    fitted(run)
    patient(run, "patient_900")
    assert [info.path for info in store.list("runs/small/neighbours")] == before
    for path in before:
        store.delete(path)
    store.write("runs/small/neighbours/0-0/objects/left.faiss", b"left")
    patient(run)
    assert not store.exists("runs/small/neighbours/0-0/objects/left.faiss")


def test_nothing_is_packed_or_fitted_again_and_evaluation_goes_on(run: RunFile, folder: Path) -> None:
    (done,) = patient(run)
    after = scans(run)
    assert not list((folder / "storage/runs/small/report").iterdir())
    again = packed(run)
    assert again.snapshot_digest == done.record.snapshot
    assert (again.new_sources, again.changes["new"], again.changes["removed"]) == (0, 0, 0)
    assert scans(run) == after
    assert fitted(run).fitted_now == 0
    assert evaluate(run, map_here)["counts"]["fitted"] == len(after)


def test_looks_go_with_their_scans_and_stay_of_others(run: RunFile, folder: Path) -> None:
    before, gone = looks(run), keys_of(folder, PATIENT)
    wanted = [before[key] for key in gone]
    assert set(holding(folder / "storage" / "datasets", wanted))
    patient(run)
    assert holding(folder / "storage" / "datasets", wanted) == {}
    assert looks(run) == {key: look for key, look in before.items() if key not in gone}
    assert names_of(run, "looks") == names_of(run, "shards")
    found = packed(run).look_alikes
    assert found is not None
    assert (found.compared, found.uncompared) == (len(before) - EACH, 0)


def test_only_what_is_there_is_deleted_of_looks(made: Path, tmp_path: Path) -> None:
    deleted = []
    for name, without in (("with", False), ("without", True)):
        run = copied(made, tmp_path / name)
        store = ObjectStore(run.storage)
        held = len(names_of(run, "looks"))
        if without:
            for stem in names_of(run, "looks"):  # as earlier versions have packed
                store.delete(looks_path(run.dataset, stem))
        (done,) = patient(run)
        deleted.append(done.proof.deleted)
    assert 0 < deleted[0] - deleted[1] <= held


def test_lists_of_pairs_and_copies_name_no_forgotten_scan(tmp_path: Path) -> None:
    archive(tmp_path)
    gone, other = picture(tmp_path, 3, 0), picture(tmp_path, 5, 7)
    shutil.copy(gone, other)
    picture(tmp_path, 6, 7).write_bytes(picture(tmp_path, 3, 1).read_bytes() + b"\0")  # the same values
    picture(tmp_path, 7, 7).write_bytes(picture(tmp_path, 8, 1).read_bytes() + b"\0")
    run = run_of(tmp_path)
    first = packed(run)
    assert first.copy_conflicts.patients == 1
    keys = keys_of(tmp_path, PATIENT)
    wanted = [PATIENT.encode(), *(key.encode() for key in keys), *map(bytes.fromhex, keys)]
    assert {COPY_CONFLICTS, LOOK_ALIKES} < set(holding(tmp_path / "private", wanted))
    patient(run)
    assert set(holding(tmp_path / "private", wanted)) == {LIST_FILE}
    again = packed(run)
    assert set(holding(tmp_path / "private", wanted)) == {LIST_FILE}
    assert (again.look_alikes and again.look_alikes.compared) == again.counts["packed"]
    both = {keys_of(tmp_path, f"patient_{name}")[0].encode() for name in ("007/scan-7", "008/scan-1")}
    assert all(key in (tmp_path / "private" / LOOK_ALIKES).read_bytes() for key in both)  # those who stay


def test_a_table_of_keys_goes_on_without_a_forgotten_scan(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_medmnist(tmp_path / "archive" / "many.npz", (12, 12), {"train": 14, "test": 6})
    packed(run_of(tmp_path))
    rows = read_mapping(tmp_path / "private")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["key,class", *(f"{row.key},{n % 3}" for n, row in enumerate(rows))]))
    run = run_of(tmp_path, table={"path": str(table), "by": "key", "label": "class"}, shard_scans=8)
    packed(run)
    before, key = scans(run), rows[4].key
    by_key(run, key)
    left = {k: scan for k, scan in before.items() if k != key}
    assert scans(run) == left
    assert packed(run).unused_rows == 1
    assert scans(run) == left
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if key not in line))
    again = packed(run)
    assert (again.unused_rows, again.new_sources, again.changes["changed"]) == (0, 0, 0)
    store, snapshot = ObjectStore(run.storage), load_snapshot(ObjectStore(run.storage), run.dataset, None)
    uris = {shard.uri for shards in snapshot.splits.values() for shard in shards}
    for uri in uris:
        store.delete(uri)
    assert repair_shards(run, snapshot, uris, map_here, ALONE) == []
    assert scans(run) == left


def test_moved_copied_and_new_files_of_a_forgotten_patient_stay_out(run: RunFile, folder: Path) -> None:
    gone = set(keys_of(folder, PATIENT))
    patient(run)
    after = scans(run)
    other = folder / "archive" / "patient_777"
    other.mkdir()
    shutil.move(picture(folder, 3, 0), other / "hidden.png")  # recognised by its values
    write_png(picture(folder, 3, 9), (12, 12), seed=999_999)  # recognised by whose it is
    write_png(other / "welcome.png", (12, 12), seed=888)
    packed(run)
    new = scans(run).keys() - after.keys()
    assert len(new) == 1
    assert new == set(keys_of(folder, "welcome"))
    assert not gone & scans(run).keys()


def test_a_forgotten_scan_of_a_file_leaves_the_others_of_it(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_medmnist(tmp_path / "archive" / "many.npz", (12, 12), {"train": 14, "test": 6})
    run = run_of(tmp_path, shard_scans=8)
    packed(run)
    before = scans(run)
    key = sorted(before)[4]
    (done,) = by_key(run, key[:16])
    assert (done.record.scans, done.record.sources) == (1, 0)
    assert scans(run) == {k: scan for k, scan in before.items() if k != key}
    assert holding(tmp_path / "storage", [key.encode(), before[key].npy]) == {}
    assert packed(run).changes["same"] == 1
    shutil.copy(tmp_path / "archive" / "many.npz", tmp_path / "archive" / "changed.npz")
    os.utime(tmp_path / "archive" / "many.npz", ns=(1, 1))
    (tmp_path / "archive" / "changed.npz").unlink()
    write_medmnist(tmp_path / "archive" / "many.npz", (12, 12), {"train": 16, "test": 6})
    packed(run)
    assert key not in scans(run)
    assert before.keys() - {key} < scans(run).keys()
    whole(run)


def test_shards_without_a_forgotten_scan_can_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    write_medmnist(tmp_path / "archive" / "many.npz", (12, 12), {"train": 14, "test": 6})
    run = run_of(tmp_path, shard_scans=8)
    packed(run)
    by_key(run, sorted(scans(run))[4])
    store, after = ObjectStore(run.storage), scans(run)
    snapshot = load_snapshot(store, run.dataset, None)
    uris = {shard.uri for shards in snapshot.splits.values() for shard in shards}
    for uri in uris:
        store.delete(uri)
    assert repair_shards(run, snapshot, uris, map_here, ALONE) == []
    assert scans(run) == after


def test_earlier_snapshots_that_held_it_are_refused_by_name_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for n in range(3):
        write_ecg_csv(tmp_path / "archive" / f"Doe-{n}.csv", rows=4, seed=n)
    run = run_of(tmp_path, shape=[187], sources_per_task=1)
    first = packed(run).snapshot_digest
    write_ecg_csv(tmp_path / "archive" / "Doe-7.csv", rows=4, seed=7)
    second = packed(run).snapshot_digest
    of_first = scans(run, first)
    (done,) = by_key(run, *keys_of(tmp_path, "Doe-7"))
    assert list(done.record.gone) == [second]
    assert scans(run, first) == of_first == scans(run)
    with pytest.raises(
        RunFileError, match=f"snapshot {second[:12]} is gone: scans of it were forgotten on 20"
    ) as caught:
        load_snapshot(ObjectStore(run.storage), run.dataset, second)
    assert done.record.snapshot in caught.value.do
    (then,) = by_key(run, *keys_of(tmp_path, "Doe-1"))
    with pytest.raises(RunFileError) as caught:
        load_snapshot(ObjectStore(run.storage), run.dataset, second)
    assert then.record.snapshot in caught.value.do
    assert {*then.record.gone} == {first, done.record.snapshot}


def test_what_a_changed_file_held_before_is_forgotten_too(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for n in range(3):
        write_ecg_csv(tmp_path / "archive" / f"Doe-{n}.csv", rows=4, seed=n)
    run = run_of(tmp_path, shape=[187])
    first = packed(run).snapshot_digest
    old = scans(run)
    write_ecg_csv(tmp_path / "archive" / "Doe-1.csv", rows=4, seed=77)
    second = packed(run).snapshot_digest
    keys = keys_of(tmp_path, "Doe-1")
    values = [found[key].npy for key in keys for found in (old, scans(run))]
    (done,) = by_key(run, *keys)
    assert {*done.record.gone} == {first, second}
    assert holding(tmp_path / "storage", [*(key.encode() for key in keys), *values]) == {}
    assert scans(run) == {key: scan for key, scan in old.items() if key not in keys}
    write_ecg_csv(tmp_path / "archive" / "Doe-5.csv", rows=4, seed=1)  # the former values under another name
    packed(run)
    assert scans(run).keys() == old.keys() - set(keys)


def test_a_file_that_has_become_broken_is_forgotten_by_the_key_it_is_quarantined_under(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for n in range(3):
        write_ecg_csv(tmp_path / "archive" / f"Doe-{n}.csv", rows=4, seed=n)
    run = run_of(tmp_path, shape=[187])
    packed(run)
    old = scans(run)
    (tmp_path / "archive" / "Doe-1.csv").write_bytes(b"0.5,x\n")
    (entry,) = packed(run).quarantined
    gone = [scan for scan in old.values() if scan.source == entry["key"]]
    assert len(gone) == 4
    assert entry["key"] not in old
    (done,) = by_key(run, entry["key"])
    assert (done.record.scans, done.record.sources) == (4, 1)
    assert holding(tmp_path / "storage", traces_of(gone, {})) == {}
    assert scans(run).keys() == old.keys() - {scan.key for scan in gone}


def test_quarantined_files_and_scans_are_forgotten(run: RunFile, folder: Path) -> None:
    bad = [picture(folder, 3, 8), picture(folder, 4, 8)]
    for path in bad:
        path.write_bytes(b"\x89PNG nothing else in " + path.parent.name.encode())
    packed(run)
    keys = {path: keys_of(folder, f"{path.parent.name}/{path.name}")[0] for path in bad}
    (done,) = patient(run)
    assert done.record.sources == EACH + 1
    assert [entry["key"] for entry in load_snapshot(ObjectStore(run.storage), run.dataset, None).quarantined] == [
        keys[bad[1]]
    ]
    assert holding(folder / "storage", [keys[bad[0]].encode()]) == {}
    (done,) = by_key(run, keys[bad[1]])
    assert (done.record.scans, done.record.sources) == (0, 1)
    assert packed(run).counts["sources_quarantined"] == 0


def test_everything_may_be_forgotten(run: RunFile, folder: Path) -> None:
    before = scans(run)
    (done,) = patient(run, *(f"patient_{n:03}" for n in range(PATIENTS)))
    assert done.record.scans == len(before)
    assert scans(run) == {}
    assert holding(folder / "storage", [key.encode() for key in before]) == {}
    write_png(folder / "archive" / "patient_888.png", (12, 12), seed=5)
    assert packed(run).counts["packed"] == 1


def test_paths_leave_mapping_and_inventory(run: RunFile, folder: Path) -> None:
    patient(run)
    assert all(PATIENT not in row.uri for row in read_mapping(folder / "private"))
    assert holding(folder / "private", [PATIENT.encode()]) == {}
    packed(run)
    assert holding(folder / "private", [PATIENT.encode()]) == {}


def test_storage_keeps_no_key_of_the_act_and_the_owner_does(run: RunFile, folder: Path) -> None:
    gone = keys_of(folder, PATIENT)
    (done,) = patient(run)
    (act,) = read_list(folder / "private").acts
    assert set(act.scans) == set(gone)
    assert (act.done, act.delete, act.latents) == (True, (), ())
    assert (folder / "private" / LIST_FILE).stat().st_mode & 0o777 == 0o600
    store = ObjectStore(run.storage)
    assert [record.act for record in read_forgotten(store, run.dataset)] == [act.id]
    proof = read_as(ProofRecord, store, f"datasets/{run.dataset}/proofs/{act.id}.json", "proof")
    assert proof == done.proof


def test_without_the_owners_list_nothing_is_packed(run: RunFile, folder: Path) -> None:
    patient(run)
    (folder / "private" / LIST_FILE).rename(folder / "kept.json")
    with pytest.raises(RunFileError, match=f"{EACH} scans of this data set were forgotten, and the list"):
        packed(run)
    (folder / "kept.json").rename(folder / "private" / LIST_FILE)
    packed(run)


@pytest.mark.parametrize("path", ["datasets/{d}/lease.json", "runs/{r}/lease.json"])
def test_a_running_driver_is_not_disturbed(run: RunFile, folder: Path, path: str) -> None:
    store, before = ObjectStore(run.storage), scans(run)
    lease = dataset_lease(run.dataset) if path.startswith("datasets") else run_lease(run.name)
    with hold_lease(store, lease, 60, "other"), pytest.raises(RunHeldError):
        patient(run)
    assert scans(run) == before
    assert read_list(folder / "private").acts == ()


def test_a_plan_changes_nothing(run: RunFile, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = preview(open_place(run), Asked(patients=(PatientName(PATIENT),)))
    assert (found.scans, found.sources, found.patients, found.snapshots, found.reports) == (EACH, EACH, 1, 1, 3)
    assert (found.runs, found.trained) == (("small",), ("small",))
    assert found.latents > 0
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before == after


def test_unknown_and_ambiguous_keys_are_refused(run: RunFile) -> None:
    before = scans(run)
    with pytest.raises(RunFileError, match="no scan has a key"):
        by_key(run, "0" * 64)
    with pytest.raises(RunFileError, match="scans have a key"):
        by_key(run, "")
    assert patient(run, "nobody") == []
    assert scans(run) == before


def test_what_dead_tasks_left_is_found_and_removed(run: RunFile, folder: Path) -> None:
    before = scans(run)
    gone = before[keys_of(folder, PATIENT)[0]]
    store = ObjectStore(run.storage)
    shards = [s for found in load_snapshot(store, run.dataset, None).splits.values() for s in found]
    held = next(s for s in shards if gone.npy in store.read(s.uri))
    store.write(f"datasets/{run.dataset}/shards/{'9' * 64}.tar", store.read(held.uri))
    store.write(f"datasets/{run.dataset}/indexes/{'9' * 64}.parquet", store.read(held.index_uri))
    for stem in ("9" * 64, "8" * 64):  # of a shard that is left over, and of one that is gone
        store.write(looks_path(run.dataset, stem), store.read(looks_path(run.dataset, held.sha256)))
    (folder / f"storage/datasets/{run.dataset}/shards/.tmp-{'9' * 32}").write_bytes(store.read(held.uri))
    look = looks(run)[gone.key]
    patient(run)
    assert holding(folder / "storage", [gone.key.encode(), gone.npy, look]) == {}


def test_what_cannot_be_deleted_is_named(run: RunFile, folder: Path) -> None:
    key = keys_of(folder, PATIENT)[0]
    store = ObjectStore(run.storage)
    store.write(f"runs/{run.name}/notes.txt", f"see {key[:12]}".encode())
    with pytest.raises(IntegrityError, match="1 objects still hold") as caught:
        patient(run)
    assert "notes.txt" in caught.value.where
    with pytest.raises(RunFileError, match="interrupted"):
        packed(run)
    store.delete(f"runs/{run.name}/notes.txt")
    (done,) = forget(open_place(run), Asked(), map_here)
    assert done.proof.found == 0
    packed(run)


def test_equal_scans_of_others_stay_and_are_named(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / "archive" / f"patient_{n}").mkdir(parents=True)
        path = tmp_path / "archive" / f"patient_{n}" / "a.png"
        write_png(path, (12, 12), seed=min(n, 2))
        path.write_bytes(
            path.read_bytes() + b"\0" * n
        )  # other bytes, so another file; patients 2 and 3 have equal values
    run = run_of(tmp_path)
    packed(run)
    (other,) = keys_of(tmp_path, "patient_3")
    (done,) = patient(run, "patient_2")
    assert done.equal == (other,)
    assert (done.proof.equal, done.proof.found) == (1, 0)
    assert other in scans(run)
    os.utime(tmp_path / "archive/patient_3/a.png", ns=(1, 1))
    packed(run)
    assert other in scans(run)


def test_a_data_set_split_by_source_forgets_by_key(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for n in range(4):
        write_png(tmp_path / "archive" / f"a{n}.png", (12, 12), seed=n)
    run = run_of(tmp_path, group="source")
    packed(run)
    (key,) = keys_of(tmp_path, "a2.png")
    by_key(run, key)
    assert len(scans(run)) == 3
    assert holding(tmp_path / "storage", [key.encode()]) == {}


class Killed(BaseException):
    """As SIGKILL ends a process: nothing catches it."""


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """From here on, this process ends before its change number ``at`` of storage or of the owner's list; the changes so
    far."""
    steps: list[str] = []

    def counted(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if name == "keep_act" or "lease.json" not in str(args[1:]):
                steps.append(f"{name} {args[1] if name != 'keep_act' else ''}")
                if len(steps) - 1 == at:
                    raise Killed
            return original(*args, **kwargs)

        return step

    for name in ("write", "upload", "delete"):
        monkeypatch.setattr(ObjectStore, name, counted(getattr(ObjectStore, name), name))
    for module in (forget_driver, forgotten_list):
        monkeypatch.setattr(module, "keep_act", counted(module.keep_act, "keep_act"))
    return steps


def finally_as_expected(run: RunFile, folder: Path, expected: dict[str, Scan], table: Any, wanted: list[bytes]) -> None:
    assert holding(folder / "storage", wanted) == {}
    assert scans(run) == expected
    assert latents(run) == table
    whole(run)
    assert read_list(folder / "private").acts[0].done
    assert packed(run).new_sources == 0
    assert scans(run) == expected


def steps_of(made: Path, folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patched:
        run = copied(made, folder)
        steps = killing(patched, -1)
        patient(run)
    return len(steps)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_whenever_it_is_killed_it_can_be_read_and_goes_on(made: Path, tmp_path: Path, every: int) -> None:
    total = steps_of(made, tmp_path / "counted")
    assert total > 20
    original = copied(made, tmp_path / "original")
    before, whole_table = scans(original), latents(original)
    gone = [before[key] for key in keys_of(tmp_path / "original", PATIENT)]
    expected = {key: scan for key, scan in before.items() if scan not in gone}
    table = {key: latent for key, latent in whole_table.items() if key in expected}
    for at in range(0, total, every):
        folder = tmp_path / f"{at}"
        run = copied(made, folder)
        with pytest.MonkeyPatch.context() as patched:
            killing(patched, at)
            with pytest.raises(Killed):
                patient(run)
        assert scans(run) in (before, expected)
        whole(run)
        acts = read_list(folder / "private").acts
        if acts and not acts[0].done:
            with pytest.raises(RunFileError, match="interrupted"):
                packed(run)
        patient(run)
        finally_as_expected(run, folder, expected, table, traces_of(gone, whole_table))
        shutil.rmtree(folder)


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[Callable[[], str]]:
    from tests.stores import roots

    with roots("moto", tmp_path) as root:
        yield root


def test_on_s3_and_a_bucket_with_versions_is_told(tmp_path: Path, moto: Callable[[], str]) -> None:
    from s3fs import S3FileSystem

    run = finished(tmp_path, moto())
    before = scans(run)
    gone = keys_of(tmp_path, PATIENT)
    store = ObjectStore(run.storage)
    assert store.versioning() == "no"
    files = S3FileSystem(skip_instance_cache=True)
    files.call_s3("put_bucket_versioning", Bucket="stores", VersioningConfiguration={"Status": "Enabled"})
    try:
        (done,) = patient(run)
    finally:
        files.call_s3("put_bucket_versioning", Bucket="stores", VersioningConfiguration={"Status": "Suspended"})
    assert done.proof.versioned == "enabled"
    assert store.versioning() == "suspended"
    assert scans(run).keys() == before.keys() - set(gone)
    copy = tmp_path / "copy"
    for info in store.list(""):
        (copy / info.path).parent.mkdir(parents=True, exist_ok=True)
        store.download(info.path, copy / info.path)
    assert holding(copy, [key.encode() for key in gone] + [before[key].npy for key in gone]) == {}
