"""What `verify` says of indexes, and what `--repair` does about damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import FormatVersionError, StageOrderError
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.integrity.repair import REPAIRS, run_repair
from medfuncta_dist.integrity.verify import PARTS
from medfuncta_dist.neighbours import index_task
from medfuncta_dist.neighbours.index_driver import make_index
from medfuncta_dist.neighbours.index_record import ROWS, record_path
from medfuncta_dist.neighbours.neighbour_search import Neighbours
from medfuncta_dist.storage.digest import canonical_json, digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import packed, ready


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    run = ready(tmp_path)
    fit(run, map_here)
    return run


def verified(run: RunFile) -> tuple[dict[str, int], str, list[str]]:
    figures, line, faults = PARTS["neighbours"](run, ObjectStore(run.storage))
    return figures, line, [fault.what for fault in faults]


def test_a_run_without_an_index_has_nothing_to_check(run: RunFile) -> None:
    with pytest.raises(StageOrderError, match="no index"):
        verified(run)


def test_whole_indexes_are_whole_and_one_of_a_former_table_is_told(run: RunFile, tmp_path: Path) -> None:
    for metric in ("plain", "whitened"):
        make_index(run, metric, map_here)
    assert verified(run) == ({"indexes": 2, "damaged": 0, "former": 0}, "2 indexes, 0 damaged", [])
    packed(run, tmp_path, seed=1)
    fit(run, map_here)
    make_index(run, "plain", map_here)
    figures, line, _ = verified(run)
    assert figures == {"indexes": 2, "damaged": 0, "former": 1}
    assert "1 of a former latent table" in line


@pytest.mark.parametrize("suffix", [".faiss", ".parquet", ".safetensors", ".json"])
def test_damage_is_found_and_repair_lets_the_index_be_made_again(run: RunFile, tmp_path: Path, suffix: str) -> None:
    make_index(run, "whitened", map_here)
    make_index(run, "plain", map_here)
    whitened = make_index(run, "whitened", map_here)
    only = {ref.path for ref in whitened.record.objects} - {
        ref.path for ref in make_index(run, "plain", map_here).record.objects
    }
    below = Path(run.storage) / whitened.folder
    paths = [below / path for path in sorted(only)] + [Path(run.storage) / record_path(whitened.folder, "whitened")]
    if suffix == ".parquet":  # keys and labels are the same under every metric
        paths = [below / whitened.record.blocks[0].rows.path]
    path = next(path for path in paths if path.suffix == suffix)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    store = ObjectStore(run.storage)
    figures, _, faults = verified(run)
    assert figures["damaged"] == len(faults) == (2 if suffix == ".parquet" else 1)
    run_repair(REPAIRS["neighbours"], run, store, PARTS["neighbours"](run, store)[2])
    assert verified_or_nothing(run) == []
    assert make_index(run, "whitened", map_here).new
    assert verified(run)[2] == []
    assert Neighbours.open(run, "whitened").record.scans == 31


def verified_or_nothing(run: RunFile) -> list[str]:
    try:
        return verified(run)[2]
    except StageOrderError:
        return []


def test_an_index_of_another_version_is_a_fault_and_is_not_removed(run: RunFile) -> None:
    made, store = make_index(run, "plain", map_here), ObjectStore(run.storage)
    path = Path(run.storage) / record_path(made.folder, "plain")
    record = {**json.loads(path.read_bytes()), "format_version": 7}
    del record["digest"]
    path.write_bytes(canonical_json({**record, "digest": digest_json(record)}))
    assert len(verified(run)[2]) == 1
    said, reasons = run_repair(REPAIRS["neighbours"], run, store, PARTS["neighbours"](run, store)[2])
    assert path.exists()
    assert "not an index of this version" in next(iter(reasons.values()))
    assert said[0].startswith("0 of 1")


def test_rows_of_another_version_are_refused_with_advice_that_helps(
    run: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = ROWS.with_metadata({"format_version": "2", "kind": "medfuncta neighbours rows"})
    with monkeypatch.context() as patched:
        patched.setattr(index_task, "ROWS", newer)
        make_index(run, "plain", map_here)
    with pytest.raises(FormatVersionError) as caught:
        Neighbours.open(run, "plain")
    assert not make_index(run, "plain", map_here).new, "so making it again is no advice"
    assert "newer" in caught.value.do
    assert "index" not in caught.value.do
