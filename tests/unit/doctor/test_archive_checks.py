"""Rights on the archive: a real S3 server behind a proxy that refuses what a policy would; and local files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.archive_checks import list_archive_checks
from medfuncta_dist.doctor.check import Finding, Outcome, run_checks
from medfuncta_dist.storage.object_store import ObjectStore
from tests.chaos.faulty_s3 import Faults, FaultyS3


def findings(**data: Any) -> dict[str, Finding]:
    run = RunFile.model_validate({"name": "r", "storage": "/x", "data": {"shape": [8, 8], **data}})
    return {result.name: result.finding for result in run_checks(list_archive_checks(run))}


@pytest.fixture
def refusing(s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FaultyS3]]:
    """An archive and its table, and the proxy."""
    root = s3()
    store = ObjectStore(root)
    for name, data in {"scans/Doe-1.png": b"", "scans/Doe-2.png": b"x", "labels.csv": b"a"}.items():
        store.write(name, data)
    with FaultyS3(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield root, proxy


def refuse(path: str, *methods: str) -> Faults:
    return Faults(methods=frozenset(methods), path=path, error_share=1.0, error_status=403, error_code="AccessDenied")


def test_the_right_that_is_missing_is_named_and_no_file(refusing: tuple[str, FaultyS3]) -> None:
    root, proxy = refusing
    data = {"source": [f"{root}/scans/*.png", f"{root}/scans"], "table": {"path": f"{root}/labels.csv", "label": "a"}}
    keys = ["data.source[0]", "data.source[1]", "data.table"]
    assert {key: found.state for key, found in findings(**data).items()} == dict.fromkeys(keys, Outcome.PASSED)
    proxy.faults = refuse("list-type=2", "GET")
    found = findings(**data)
    assert [found[key].state for key in keys] == [Outcome.FAILED, Outcome.FAILED, Outcome.PASSED]
    assert found["data.source[0]"].what.startswith("the right to list is missing")
    assert "s3:ListBucket" in found["data.source[0]"].do
    proxy.faults = refuse("Doe-2", "GET")
    found = findings(**data)
    assert [found[key].state for key in keys] == [Outcome.FAILED, Outcome.FAILED, Outcome.PASSED]
    assert found["data.source[1]"].what.startswith("the right to read is missing")
    assert "s3:GetObject" in found["data.source[1]"].do
    assert "Doe" not in str(found)
    proxy.faults = refuse("labels", "GET")
    found = findings(**data)
    assert [found[key].state for key in keys] == [Outcome.PASSED, Outcome.PASSED, Outcome.FAILED]
    assert found["data.table"].what.startswith("the right to read is missing")


def test_masks_are_among_the_patterns_and_each_split_is_checked(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii").write_bytes(b"x")
    splits = {"train": [f"{tmp_path}/images/*.nii", f"{tmp_path}/labelsTr/*.nii"], "test": f"{tmp_path}/images/"}
    found = findings(splits=splits, masks="pair", shape=[8, 8, 8])
    assert {key: f.state for key, f in found.items()} == {
        "data.splits.train[0]": Outcome.PASSED,
        "data.splits.train[1]": Outcome.FAILED,
        "data.splits.test": Outcome.PASSED,
    }
    assert "no file matches" in found["data.splits.train[1]"].what


def test_a_local_table_that_is_missing_or_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    found = findings(source=str(tmp_path / "*.png"), group={"table": str(tmp_path / "none.csv")})
    assert found["data.source"].what == "may be listed: 1 files were looked at, all of them empty, so none was read"
    assert found["data.group.table"].state is Outcome.FAILED
    assert "No such file" in found["data.group.table"].what
    assert list_archive_checks(None) == []
