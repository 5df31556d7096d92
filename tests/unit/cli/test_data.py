"""The commands about data, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medfuncta_dist.cli.app import app
from tests.writers import write_medmnist, write_png


@pytest.mark.usefixtures("ray_cluster")
def test_a_fingerprint_of_a_folder_is_printed_and_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scans").mkdir()
    for n in range(3):
        write_png(tmp_path / f"scans/{n}.png", seed=n)
    out = tmp_path / "fingerprint.json"
    result = CliRunner().invoke(app, ["fingerprint", str(tmp_path / "scans"), "--out", str(out), "--json"])
    assert result.exit_code == 0
    printed = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert printed.items() >= json.loads(out.read_bytes()).items()
    assert printed["groups"][0]["suggested"]["data"] == {"shape": [28, 28], "intensity": {"mode": "dtype"}}


@pytest.mark.usefixtures("ray_cluster")
def test_a_data_report_of_a_packed_data_set(tmp_path: Path) -> None:
    write_medmnist(tmp_path / "a.npz", counts={"train": 6, "test": 3})
    run = tmp_path / "run.yaml"
    data = {"source": str(tmp_path / "a.npz"), "shape": [16, 16], "private": str(tmp_path / "private")}
    run.write_text(json.dumps({"name": "report", "storage": str(tmp_path / "store"), "data": data}))
    assert CliRunner().invoke(app, ["pack", str(run)]).exit_code == 0
    assert CliRunner().invoke(app, ["data-report", str(run), "--pictures", "1"]).exit_code == 0
    folder = tmp_path / "private/data-report"
    assert json.loads((folder / "data-report.json").read_bytes())["counts"]["packed"] == 9
    assert sorted(path.name for path in folder.iterdir()) == ["data-report.html", "data-report.json"]
    assert CliRunner().invoke(app, ["data-report", str(run), "--out", str(tmp_path / "store/r")]).exit_code == 2
