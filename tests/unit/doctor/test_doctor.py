"""The command, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml


def test_the_command_shows_each_check_and_ends_with_1_where_one_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    run = {"name": "r", "storage": "/proc/nowhere", "data": {"source": "x/*.png", "shape": [8, 8]}}
    file.write_text(yaml.safe_dump(run))
    command = [str(Path(sys.executable).with_name("medfuncta-dist")), "doctor", str(file), "--json"]
    alone = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=alone | {"KUBECONFIG": str(tmp_path / "none")}
    )
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 1
    states = {check["check"]: check["state"] for check in told["checks"]}
    assert states["python"] == states["packages"] == "good"
    assert states["storage"] == "bad"
    assert states["kubernetes"] == "unasked"
    assert all(check["do"] for check in told["checks"] if check["state"] in ("odd", "bad"))
    assert "failed   storage" in done.stderr
