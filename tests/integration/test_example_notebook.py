"""The notebook on the quickstart's output: kept without outputs, and run from its first cell to its last."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands import COMMAND

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"
SHORT = ("train.steps=20", "train.checkpoint_steps=20", "train.validate_steps=20", "telemetry.wandb=off")
RUN_CELLS = """
import json, sys
import matplotlib.pyplot as plt

names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
print("pictures:", len(plt.get_fignums()))
"""


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
    return found


def test_it_is_kept_without_outputs() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert code
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)


@pytest.fixture(scope="module")
def folder(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a short quickstart was run."""
    folder = tmp_path_factory.mktemp("quickstart")
    sets = [word for key in SHORT for word in ("--set", key)]
    command = [COMMAND, "quickstart", "--workdir", "quickstart-run", *sets, "--json"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def test_its_cells_run_and_say_what_latents_are_good_for(folder: Path) -> None:
    """The network is hardly trained; yet neighbours are near, and a latent tells where its slice is."""
    environment = os.environ | {"MPLBACKEND": "Agg"}
    command = [sys.executable, "-c", RUN_CELLS, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pictures: 3" in done.stdout
    [(told, ignorant)] = re.findall(r"([\d.]+) mm off on average, ([\d.]+) mm without looking", done.stdout)
    assert float(told) < float(ignorant) / 2
    [(near, possible)] = re.findall(r"(\d+) mm to the nearest latent, (\d+) mm to the closest slice", done.stdout)
    assert int(possible) <= int(near) <= 3 * int(possible)
    assert "(1, 192, 192) points, 0." in done.stdout
