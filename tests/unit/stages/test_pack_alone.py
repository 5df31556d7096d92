"""The command ``pack`` by itself: what later stages need may still be wrong, and what failed whole may be corrected.

Its tasks run in this process; all else is as the command line does it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuncta_dist.cli import run as command
from medfuncta_dist.config.load import load
from medfuncta_dist.errors import NothingPackedError, RunFileError
from medfuncta_dist.stages import pack_stage
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.writers import write_ecg_csv


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pack_stage, "cpu_fan_out", lambda run: map_here)
    write_ecg_csv(tmp_path / "a.csv", rows=4, samples=100)
    return tmp_path


def run_file(folder: Path, **sections: Any) -> str:
    data = {"source": str(folder / "a.csv"), "shape": [100], "private": str(folder / "private"), "max_quarantined": 1.0}
    whole = {"name": "ecg", "storage": str(folder / "store"), "data": data | sections.pop("data", {})}
    (folder / "run.yaml").write_text(yaml.safe_dump(whole | sections))
    return str(folder / "run.yaml")


def called(capfd: pytest.CaptureFixture[str], path: str, **options: Any) -> tuple[int, dict[str, Any], str]:
    with pytest.raises(SystemExit) as ended:
        command.pack(path, [], key=None, as_json=True, plan=options.get("plan", False))
    out, said = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    # A command redirects stdout for the rest of its process: the next one's answer is in stderr, last.
    return ended.value.code, json.loads((out or said).splitlines()[-1]), said


@pytest.mark.parametrize("plan", [True, False])
def test_a_wrong_key_of_fit_is_a_warning_and_is_refused_later(
    archive: Path, capfd: pytest.CaptureFixture[str], plan: bool
) -> None:
    wrong = run_file(archive, fit={"keep": "minus"})
    code, figures, said = called(capfd, wrong, plan=plan)
    assert code == 0, said
    assert "warning" in said
    assert "fit.keep = 'minus'" in said
    assert plan or figures["pack"]["counts"]["packed"] == 4
    with pytest.raises(RunFileError, match=r"fit\.keep"):
        load(wrong)
    kept = archive / "store" / "runs" / "ecg" / "run.yaml"
    assert not kept.exists(), "defaults in its place would be kept for later stages"
    run_stages(load(run_file(archive, fit={"steps": 7})), ["pack"])
    assert kept.exists()


def test_a_wrong_key_of_data_still_stops_it(archive: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, figures, _ = called(capfd, run_file(archive, data={"channels": 0}, fit={"keep": "minus"}))
    assert code == 2
    assert all(name in figures["error"]["what"] for name in ("data.channels", "fit.keep"))


def test_a_run_that_packed_nothing_may_come_with_another_shape(
    archive: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the run file was kept by the first attempt, or even by one that was killed
        code, figures, _ = called(capfd, run_file(archive, data={"shape": [187]}))
        assert code == 2
        assert "4 x" not in figures["error"]["what"]
        assert "1 x rows of 100 numbers, where data.shape declares 187" in figures["error"]["what"]
    code, figures, _ = called(capfd, run_file(archive))
    assert (code, figures["pack"]["counts"]["packed"]) == (0, 4)


def test_a_kept_run_file_of_an_attempt_that_was_killed_is_given_up(archive: Path) -> None:
    from medfuncta_dist.run.frozen_run_file import freeze
    from medfuncta_dist.storage.publish import ALONE

    wrong = load(run_file(archive, data={"shape": [187]}))
    freeze(wrong, ObjectStore(wrong.storage), ALONE)
    with pytest.raises(NothingPackedError):
        run_stages(wrong, ["pack"])
    run_stages(load(run_file(archive)), ["pack"])
