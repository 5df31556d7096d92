"""``pack --plan``: what would be done, and nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.stages.pack_stage import plan_pack
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.progress_record import StageProgress, progress_path
from tests.unit.shards.samples import objects, run_file
from tests.writers import write_dicom, write_png


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    (tmp_path / "archive").mkdir()
    for n in range(4):
        write_dicom(tmp_path / "archive" / f"Doe-{n}.dcm", seed=n)
    write_png(tmp_path / "archive" / "a.png")
    (tmp_path / "archive" / "Roe.dcm").write_bytes(b"no image")
    return run_file(tmp_path, shape=[16, 16])


def test_a_plan_counts_the_archive_and_writes_nothing_to_storage(run: RunFile, tmp_path: Path) -> None:
    figures = plan_pack(run)
    size = sum(path.stat().st_size for path in (tmp_path / "archive").iterdir())
    assert figures["to_read"] == {"sources": 6, "bytes": size}
    assert figures["archive"]["formats"] == {"dicom": 5, "image": 1}
    assert figures["archive"]["problems"] == {"no series identifier": 4, "not a readable DICOM file": 1}
    assert (figures["packed"], figures["seconds"], figures["sources"]["new"]) == (0, None, 6)
    assert not (tmp_path / "store").exists()
    assert "Doe" not in json.dumps(figures)


def test_pack_does_what_the_plan_said_and_reads_no_header_again(
    run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = preview_pack(run, lambda done, total: None)
    monkeypatch.setattr("medfuncta_dist.archive.survey.fetch_from", lambda uri: pytest.fail("read a source"))
    summary = pack(run, map_here, lambda progress: None)
    assert (summary.changes, summary.new_sources) == (plan.changes, plan.to_read)
    before = objects(ObjectStore(run.storage))
    again = preview_pack(run, lambda done, total: None)
    assert (again.to_read, again.changes["same"], again.packed) == (0, 6, summary.counts["packed"])
    assert objects(ObjectStore(run.storage)) == before


def test_the_time_follows_from_the_bytes_of_the_last_pack(run: RunFile, tmp_path: Path) -> None:
    record = {"unit": "sources", "began": 0.0, "started": 0.0, "updated": 10.0, "samples": ((0.0, 0), (10.0, 1))}
    earlier = StageProgress(run.name, "pack", **record)
    path = progress_path(run.name, "pack")

    def seconds(progress: StageProgress) -> float | None:
        ObjectStore(run.storage).write(path, json.dumps({"format_version": 1, **asdict(progress)}).encode())
        return plan_pack(run)["seconds"]

    assert seconds(earlier) == 60.0, "six sources, at one per ten seconds: an earlier version kept no bytes"
    size = sum(file.stat().st_size for file in (tmp_path / "archive").iterdir())
    assert seconds(replace(earlier, byte_samples=((0.0, 0), (10.0, size * 5)))) == 2.0


def test_a_plan_is_refused_where_packing_would_be(run: RunFile, tmp_path: Path) -> None:
    pack(run, map_here, lambda progress: None)
    with pytest.raises(RunChangedError, match=r"data\.shape"):
        plan_pack(run_file(tmp_path, shape=[8, 8]))


def test_the_command_prints_one_object(run: RunFile, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(dump(run))
    command = [sys.executable, "-m", "medfuncta_dist.cli.app", "pack", str(tmp_path / "run.yaml"), "--plan", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["to_read"]["sources"] == 6
    assert not (tmp_path / "store").exists()
