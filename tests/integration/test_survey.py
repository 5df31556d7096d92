"""A survey whose parts are read by Ray tasks on a real cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medfuncta_dist.archive import survey as survey_module
from medfuncta_dist.archive.dicom_header import read_header
from medfuncta_dist.archive.inventory import Listed, Row
from medfuncta_dist.archive.survey import survey
from medfuncta_dist.fanout import ray_fan_out
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.storage.digest import sha256_file
from medfuncta_dist.storage.sources import expand
from tests.writers import write_dicom

KEYS = KeyMaker(bytes(32))

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_ray_tasks_read_the_archive_and_the_inventory_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for n in range(40):
        write_dicom(archive / f"{n:02d}.dcm", shape=(8, 6), seed=n)
    sources = [Listed(s.relative, s.uri, s.size, s.version, "dicom") for s in expand(str(archive))]
    monkeypatch.setattr(survey_module, "PART_ROWS", 8)
    here = survey(sources, tmp_path / "here", KEYS, lambda *at: None)
    read: list[int] = []

    def counted(file: object, keys: KeyMaker) -> Row:
        read.append(os.getpid())
        return read_header(file, keys)  # type: ignore[arg-type]

    monkeypatch.setattr(survey_module, "read_header", counted)
    done: list[int] = []
    path = survey(sources, tmp_path / "tasks", KEYS, lambda n, _: done.append(n), ray_fan_out(2, num_cpus=1))
    assert len(read) == survey_module.PARTS_HERE * 8  # by this process
    assert done[-1] == 40
    assert sha256_file(path) == sha256_file(here)
