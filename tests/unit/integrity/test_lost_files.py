"""What a lost file does: each kind is deleted from a copy of a finished run, told by the stage that needs it, and made
again, to the bit, where records or a rerun can."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import LostObjectError, MedfunctaError, StageOrderError
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fitting.fit_driver import fit, fit_again
from medfuncta_dist.fitting.latent_ledger import require_parts
from medfuncta_dist.integrity.repair_snapshots import find_snapshot_faults, repair_snapshots
from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.frozen_run_file import freeze
from medfuncta_dist.shards.shard_listing import require_shards
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.stages.preflight import pinned_snapshot
from medfuncta_dist.stages.readiness import is_complete, require_ready
from medfuncta_dist.storage.leases.lease import dataset_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import FIELD, network, publish, run_file
from tests.writers import write_medmnist

PACKS = 3
"""Each adds an archive file, records and a snapshot."""
COUNTS = {"train": 8, "test": 3}
Stage = Callable[[RunFile], Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was packed three times, and trains on the newest snapshot."""
    folder = tmp_path_factory.mktemp("finished")
    run = run_file(folder, field=FIELD)
    store = ObjectStore(run.storage)
    (folder / "archive").mkdir()
    for seed in range(PACKS):
        write_medmnist(folder / "archive" / f"scans-{seed}.npz", (12, 12), COUNTS, seed)
        with hold_lease(store, dataset_lease("small"), 60.0, "data set small") as fence:
            pack(run, map_here, lambda _: None, fence=fence)
    freeze(run, store, fence=ALONE)
    pinned_snapshot(run, store, ALONE)
    publish(run, network(run))
    fit(run, map_here)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunFile:
    """A copy to damage."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    frozen = folder / "storage/runs/small/run.yaml"
    frozen.write_text(frozen.read_text().replace(str(finished), str(folder)))
    return run_file(folder, field=FIELD)


def pack_again(run: RunFile) -> Any:
    return pack(run, map_here, lambda _: None)


def begin_training(run: RunFile) -> Any:
    return pinned_snapshot(run, ObjectStore(run.storage), ALONE)


def fit_all(run: RunFile) -> Any:
    return fit(run, map_here)


def evaluate_all(run: RunFile) -> Any:
    return evaluate(run, map_here)


def repair(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """``verify --repair``, with fan-outs that need no cluster."""
    for module in ("verify", "repair"):
        monkeypatch.setattr(f"medfuncta_dist.integrity.{module}.cpu_fan_out", lambda run: map_here)
    monkeypatch.setattr("medfuncta_dist.integrity.repair.compute_fan_out", lambda run: map_here)
    return verify_target(run.storage, [f"data.private={run.data.private}", f"data.source={run.data.source}"], True)


def files(run: RunFile) -> dict[str, bytes]:
    """All that is stored, but for leases."""
    store = ObjectStore(run.storage)
    return {i.path: store.read(i.path) for i in store.list("") if not i.path.endswith("lease.json")}


def lose(run: RunFile, pattern: str, which: slice = slice(None)) -> list[Path]:
    """Delete some of the files that match, in the order of their names."""
    lost = sorted(Path(run.storage).glob(pattern))[which]
    assert lost
    for path in lost:
        path.unlink()
    return lost


def by_generation(run: RunFile, generation: int) -> str:
    """The pattern of a snapshot's file."""
    [record] = Path(run.storage).glob(f"datasets/small/commits/{generation:09d}-*.json")
    return f"datasets/small/snapshots/{record.stem.split('-')[1]}*.json"


def told(stage: Stage, run: RunFile) -> MedfunctaError:
    """The error of a stage, which leads to the repair."""
    with pytest.raises(MedfunctaError) as caught:
        stage(run)
    assert caught.value.exit_code == 4, caught.value
    assert "medfuncta-dist verify RUN.yaml --repair" in caught.value.do
    return caught.value


def test_fit_fits_a_lost_part_again_and_only_it(run: RunFile) -> None:
    before = files(run)
    [part] = lose(run, "runs/small/latents/*/parts/*.parquet", slice(1))
    summary = fit_all(run)
    assert (summary.lost_parts, summary.fitted_now) == (1, pq.read_table(part).num_rows)
    assert files(run) == before
    assert fit_all(run).fitted_now == 0


def test_evaluate_tells_a_lost_part(run: RunFile) -> None:
    [part] = lose(run, "runs/small/latents/*/parts/*.parquet", slice(1))
    error = told(evaluate_all, run)
    assert error.where.endswith(part.name)
    store = ObjectStore(run.storage)
    assert not is_complete(run, store, "fit")
    with pytest.raises(MedfunctaError, match="missing"):
        require_ready(run, store, ["evaluate"])


def test_repair_fits_a_lost_part_again(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run)
    lose(run, "runs/small/latents/*/parts/*.parquet", slice(2))
    figures = repair(run, monkeypatch)
    assert "2 of 2 damaged commit records removed" in str(figures["said"])
    assert {path for path in before if "/parts/" in path} < files(run).keys()
    assert all(before.get(path, data) == data for path, data in files(run).items())


def test_fit_again_fits_nothing_else(run: RunFile) -> None:
    [record, other] = lose(run, "runs/small/latents/*/commits/*.json", slice(2))
    assert 0 < fit_again(run, map_here, [record.stem]) <= 5
    assert record.exists()
    assert not other.exists()


@pytest.mark.parametrize("generation", range(1, PACKS + 1))
def test_a_lost_snapshot_is_written_again(run: RunFile, generation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run)
    lose(run, by_generation(run, generation))
    if generation == PACKS:
        for stage in (pack_again, begin_training, fit_all, evaluate_all):
            told(stage, run)
    repair(run, monkeypatch)
    assert files(run) == before


def test_all_snapshots_lost_with_the_newest_kept_or_not(run: RunFile) -> None:
    """The older ones follow from the newest; without it, from which driver wrote which records."""
    before, store = files(run), ObjectStore(run.storage)
    for generation in range(1, PACKS):
        lose(run, by_generation(run, generation))
    assert len(find_snapshot_faults(run, store)) == PACKS - 1
    repair_snapshots(run, store, ALONE)
    assert files(run) == before
    lose(run, "datasets/small/snapshots/*.json")
    repair_snapshots(run, store, ALONE)
    assert files(run) == before


@pytest.mark.parametrize("which", [slice(None), slice(1), slice(1, 2), slice(-1, None)], ids=["all", "1", "2", "3"])
def test_lost_commit_records_are_written_again(run: RunFile, which: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run)
    lose(run, "datasets/small/commits/*.json", which)
    if which in (slice(None), slice(-1, None)):
        assert "runs/small/pin.json names it" in told(begin_training, run).what
        for stage in (fit_all, evaluate_all):
            assert "commit record" in told(stage, run).what
        repair(run, monkeypatch)
        assert files(run) == before
    else:  # nothing needs the record of a snapshot that has a newer one
        assert begin_training(run).generation == PACKS
    assert pack_again(run).counts["packed"] == PACKS * sum(COUNTS.values())


def test_packing_again_finishes_a_pack_that_was_stopped_before_its_record(run: RunFile) -> None:
    before = files(run)
    lose(run, "datasets/small/commits/*.json", slice(-1, None))
    pack_again(run)
    assert files(run) == before


def test_a_pin_that_leads_nowhere_names_the_pin(run: RunFile) -> None:
    lose(run, by_generation(run, PACKS))
    lose(run, "datasets/small/commits/*.json", slice(-1, None))
    with pytest.raises(LostObjectError) as caught:
        begin_training(run)
    assert "runs/small/pin.json" in caught.value.where
    assert "data.snapshot" not in str(caught.value)
    faults = find_snapshot_faults(run, ObjectStore(run.storage))
    assert [fault.what for fault in faults] == [
        "the snapshot that this run trains on is missing, and so is its commit record"
    ]


def test_a_data_set_without_any_snapshot_is_not_damaged(tmp_path: Path) -> None:
    run = run_file(tmp_path)
    store = ObjectStore(run.storage)
    assert find_snapshot_faults(run, store) == []
    with pytest.raises(StageOrderError):
        load_snapshot(store, run.dataset, None)


@pytest.mark.parametrize("kind", ["shards/*.tar", "indexes/*.parquet"])
def test_a_lost_shard_is_told_and_packed_again(run: RunFile, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run)
    lost = lose(run, f"datasets/small/{kind}", slice(2))
    error = told(begin_training, run)
    if kind.startswith("shards"):
        error = told(pack_again, run)
    assert error.what.startswith("2 of ")
    assert Path(error.where) in lost
    repair(run, monkeypatch)
    assert files(run) == before


def test_a_lost_shard_that_is_fitted_is_told(run: RunFile) -> None:
    shutil.rmtree(Path(run.storage) / "runs/small/latents")
    shutil.rmtree(run.cluster.cache or "", ignore_errors=True)
    lose(run, "datasets/small/shards/*.tar")
    told(fit_all, run)


@pytest.mark.parametrize("name", ["._{}", ".{}", "{} (1).json", "x/{}", "copy of {}", "notes.json"])
@pytest.mark.parametrize("folder", ["datasets/small/commits", "datasets/small/packs", "runs/small/latents/*/commits"])
def test_foreign_files_among_records_are_ignored(run: RunFile, folder: str, name: str) -> None:
    for there in Path(run.storage).glob(folder):
        for path in [p for p in there.iterdir() if p.is_file()]:
            foreign = there / name.format(path.name)
            foreign.parent.mkdir(exist_ok=True)
            foreign.write_bytes(b"\x00\x05\x16\x07")
    digest = load_snapshot(ObjectStore(run.storage), "small", None).digest
    assert pack_again(run).snapshot_digest == begin_training(run).digest == digest
    assert fit_all(run).fitted_now == 0
    assert find_snapshot_faults(run, ObjectStore(run.storage)) == []


def test_what_is_listed_is_one_listing_of_each_folder(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    asked: list[str] = []
    real, size = ObjectStore.list, ObjectStore.size
    monkeypatch.setattr(ObjectStore, "list", lambda s, prefix: listed.append(prefix) or real(s, prefix))
    monkeypatch.setattr(ObjectStore, "size", lambda s, path: asked.append(path) or size(s, path))
    store = ObjectStore(run.storage)
    snapshot = load_snapshot(store, "small", None)
    assert listed == ["datasets/small/commits", "datasets/small/snapshots"]
    listed.clear()
    require_shards(store, snapshot)
    assert listed == ["datasets/small/shards", "datasets/small/indexes"]
    listed.clear()
    require_parts(store, "runs/small/latents/none", [])
    assert (listed, asked) == ([], [])
