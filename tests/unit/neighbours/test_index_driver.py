"""Indexes of really fitted runs: made, committed, searched, refused where they are stale or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, LeaseLostError, LostObjectError, RunFileError, StageOrderError
from medfuncta_dist.fanout import ray_fan_out
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.neighbours import index_driver, index_plan
from medfuncta_dist.neighbours.index_driver import Made, make_index
from medfuncta_dist.neighbours.index_plan import KINDS
from medfuncta_dist.neighbours.latent_metric import METRICS
from medfuncta_dist.neighbours.neighbour_search import Neighbours
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.kinds import KINDS as FIELDS
from tests.unit.latents.fitted import COUNTS, packed, ready, run_file

SCANS = sum(COUNTS.values())


@pytest.fixture(scope="module", params=FIELDS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("fitted") / "run"
    folder.mkdir()
    fit(ready(folder, request.param), map_here)
    return folder, request.param


@pytest.fixture
def run(finished: tuple[Path, str], tmp_path: Path) -> RunFile:
    """A copy to index."""
    shutil.copytree(finished[0], tmp_path / "run")
    return run_file(tmp_path / "run", kind=finished[1])


def stored(run: RunFile, suffix: str) -> list[Path]:
    return sorted((Path(run.storage) / "runs/small/neighbours").rglob(f"*{suffix}"))


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_are_those_that_comparing_all_latents_finds(run: RunFile, metric: str) -> None:
    made = make_index(run, metric, map_here)
    assert (made.record.kind, made.record.scans, made.record.recall) == ("exact", SCANS, 1.0)
    table, opened = LatentTable.open(run), Neighbours.open(run, metric)
    vectors = opened._index.metric.coordinates(table.latents).astype(float)
    distances = cdist(vectors, vectors)
    np.fill_diagonal(distances, np.inf)
    for row, found in enumerate(opened.search(table.keys, 5)):
        nearest = np.argsort(distances[row])[:5]
        assert [one.key for one in found] == [table.keys[n] for n in nearest]
        assert [one.distance for one in found] == pytest.approx(distances[row][nearest].tolist(), rel=1e-3, abs=1e-6)
        assert [list(one.labels) for one in found] == [table.labels[n] for n in nearest]
        assert [one.split for one in found] == [table.splits[n] for n in nearest]


def test_latents_are_searched_as_keys_are_but_find_themselves(run: RunFile) -> None:
    make_index(run, "image", map_here)
    table, opened = LatentTable.open(run), Neighbours.open(run)
    by_latent = opened.search(table.latents[:3], 4)
    assert [found[0].key for found in by_latent] == table.keys[:3]
    by_key = opened.search([key[:16] for key in table.keys[:3]], 3)
    assert [[one.key for one in found[1:]] for found in by_latent] == [[one.key for one in found] for found in by_key]


def test_a_split_is_searched_alone_and_nobody_is_asked_for_more_than_there_are(run: RunFile) -> None:
    make_index(run, "plain", map_here)
    opened = Neighbours.open(run, "plain")
    key = LatentTable.open(run, ["train"]).keys[0]
    assert opened.search([]) == []
    (found,) = opened.search([key], 10**12, splits=["test"])
    assert {one.split for one in found} == {"test"}
    assert len(found) == COUNTS["test"]
    assert len(opened.search([key], 100)[0]) == SCANS - 1


def test_what_cannot_be_found_is_refused(run: RunFile) -> None:
    make_index(run, "plain", map_here)
    opened = Neighbours.open(run, "plain")
    for arguments, message in (
        ((["abc"],), "at least 8 digits"),
        ((["0" * 64],), "no scans of the index"),
        ((LatentTable.open(run).keys[:1], 0), "0 neighbours"),
        ((LatentTable.open(run).keys[:1], 1, ["gap"]), "split 'gap'"),
        ((LatentTable.open(run).keys[:1], 1, ()), "no split is named"),
        ((LatentTable.open(run).latents[0],), "no latents of this index"),
        ((LatentTable.open(run).latents[:, 1:],), "no latents of this index"),
    ):
        with pytest.raises(RunFileError, match=message):
            opened.search(*arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_recall_measured_and_is_searched(
    run: RunFile, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_plan, "BLOCK_NUMBERS", 5 * 24)  # blocks of a part each
    made = make_index(run, "plain", map_here, kind=kind)
    assert made.record.kind == kind
    assert made.record.recall > 0.9
    assert len(made.record.blocks) > 3
    exact = cdist(LatentTable.open(run).latents, LatentTable.open(run).latents).argsort(1)[:, 1]
    keys = LatentTable.open(run).keys
    found = Neighbours.open(run, "plain").search(keys, 1)
    assert np.mean([one.key == keys[n] for (one,), n in zip(found, exact, strict=True)]) > 0.9


def test_an_index_is_made_once_for_a_table_and_anew_for_another(run: RunFile, tmp_path: Path) -> None:
    first = make_index(run, "plain", map_here)
    assert make_index(run, "plain", map_here).new is False
    packed(run, tmp_path / "run", seed=1)
    fit(run, map_here)
    with pytest.raises(StageOrderError, match="has changed since"):
        Neighbours.open(run, "plain")
    before = set(stored(run, ".faiss"))
    second = make_index(run, "plain", map_here)
    assert (second.new, second.record.scans) == (True, 2 * SCANS)
    assert first.record.table != second.record.table
    assert len(Neighbours.open(run, "plain").search(LatentTable.open(run).keys[:1], 100)[0]) == 2 * SCANS - 1
    named = {Path(run.storage) / second.folder / ref.path for ref in second.record.objects}
    assert set(stored(run, ".faiss")) <= named
    assert before - named
    assert not any(path.exists() for path in before - named), "what no index names is removed"


def test_each_metric_has_an_index_of_its_own(run: RunFile) -> None:
    made = [make_index(run, metric, map_here) for metric in METRICS]
    for one in made:
        assert Neighbours.open(run, one.record.metric).record == one.record


def test_there_is_nothing_to_search_before_there_is_an_index_and_nothing_to_index_before_a_fit(
    run: RunFile, tmp_path: Path
) -> None:
    with pytest.raises(StageOrderError, match="no index of these latents under the metric 'image'") as caught:
        Neighbours.open(run)
    assert "index RUN.yaml --metric image" in caught.value.do
    (tmp_path / "new").mkdir()
    with pytest.raises(StageOrderError, match="no latents yet"):
        make_index(ready(tmp_path / "new"), "plain", map_here)


@pytest.mark.parametrize("suffix", [".faiss", ".parquet", ".safetensors"])
def test_a_damaged_object_is_refused_before_faiss_reads_it(
    run: RunFile, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_index(run, "whitened", map_here)
    path = stored(run, suffix)[0]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="not the one that was committed") as caught:
        Neighbours.open(run, "whitened")
    assert "verify RUN.yaml --repair" in caught.value.do, "`index` alone would say that it was there already"
    path.unlink()
    with pytest.raises(LostObjectError, match="is missing"):
        Neighbours.open(run, "whitened")
    assert make_index(run, "whitened", map_here).new is False, "the record is what it was: verify finds the damage"


def test_a_driver_that_lost_its_lease_commits_no_index(run: RunFile) -> None:
    store = ObjectStore(run.storage)
    former = take(store, run_lease(run.name), 0.2, print)
    former.give_back()
    take(store, run_lease(run.name), 60, print)
    with pytest.raises(LeaseLostError):
        make_index(run, "plain", map_here, fence=former.fence)
    with pytest.raises(StageOrderError):
        Neighbours.open(run, "plain")


def test_blocks_are_ray_tasks(run: RunFile, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = make_index(run, "plain", map_here)
    monkeypatch.setattr(index_driver, "SMALL_NUMBERS", 0)
    on_ray: Made = make_index(run, "whitened", ray_fan_out(2, num_cpus=1))
    assert sorted(one.rows.sha256 for one in on_ray.record.blocks) == sorted(b.rows.sha256 for b in here.record.blocks)
    assert len(Neighbours.open(run, "whitened").search(LatentTable.open(run).keys[:1])[0]) == 10
