"""The commands about data, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medfuncta_dist.cli.app import app
from tests.writers import write_png


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
