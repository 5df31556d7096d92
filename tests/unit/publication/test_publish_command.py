"""The command publish, from arguments to answer and exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.task_map import map_here
from tests.unit.cli.calls import call, call_json
from tests.unit.latents.fitted import COUNTS, ready
from tests.unit.publication.published import rows_of

ACKNOWLEDGED = ["--acknowledge", "latents decode to images"]
SAID = ["--licence", "cc-by-4.0", "--intended-use", "Research."]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    run = ready(folder)
    fit(run, map_here)
    (folder / "run.yaml").write_text(dump(run))
    return str(folder / "run.yaml")


def test_it_publishes_and_says_where_the_owners_list_is(
    run_file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "published")
    arguments = [run_file, target, *SAID, *ACKNOWLEDGED, "--labels", "--with", "modality", "--split", "test"]
    answer = call_json(capfd, "publish", *arguments)
    assert answer["exit_code"] == 0
    assert answer["target"] == target
    assert answer["splits"].keys() == {"test"}
    assert answer["splits"]["test"]["scans"] == COUNTS["test"] == rows_of(tmp_path / "published").num_rows
    assert rows_of(tmp_path / "published").column_names == ["id", "labels", "latent", "psnr", "below_min", "modality"]
    assert Path(answer["ids"]).is_file()
    assert any(answer["ids"] in line and "forget" in line for line in answer["said"])
    code, _ = call(capfd, "publish", *arguments)
    assert code == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (SAID, "--acknowledge"),
        (ACKNOWLEDGED, "--statement"),
        ([*SAID, *ACKNOWLEDGED, "--with", "affine"], "--with"),
        ([*SAID, *ACKNOWLEDGED, "--split", "none"], "--split"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    run_file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    answer = call_json(capfd, "publish", run_file, str(tmp_path / "published"), *arguments)
    assert answer["exit_code"] == 2
    assert answer["error"]["where"] == what
    assert not (tmp_path / "published").exists()


def test_keys_are_ids_only_when_asked_for_and_it_is_said(
    run_file: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    statement = tmp_path / "statement.yaml"
    statement.write_text("licence: cc0-1.0\nintended_use: Research.\n")
    target = tmp_path / "published"
    arguments = [run_file, str(target), "--statement", str(statement), *ACKNOWLEDGED, "--keep-keys"]
    answer = call_json(capfd, "publish", *arguments)
    assert any("the salt" in line for line in answer["said"])
    assert {len(one) for one in rows_of(target)["id"].to_pylist()} == {64}
