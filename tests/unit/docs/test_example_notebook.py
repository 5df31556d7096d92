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

from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.quickstart import example_job
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.training.loops import trained
from tests.unit.training.ranks import on_ranks

NOTEBOOK = Path(__file__).resolve().parents[3] / "examples" / "quickstart.ipynb"
SHORT = ["train.steps=4", "train.validate_steps=1000", "cluster.workers=1"]
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


def short_quickstart(folder: Path) -> int:
    """The quickstart's run file, scan and S3 server, and its stages in this process, with few steps.

    Returns how many scans are fitted."""
    with EmbeddedS3(folder / "quickstart-run" / "s3") as server:
        os.environ.update(server.environment)
        for bucket in ("archive", "medfuncta"):
            server.create_bucket(bucket)
        ObjectStore("s3://archive").upload(example_job._volume(), example_job.SCAN)
        run = example_job._run_file(folder, SHORT)
        snapshot = pack(run, map_here, lambda _: None).snapshot_digest
        assert trained(run, snapshot)["network"] != ""
        return fit(run, map_here).counts.fitted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a short quickstart was run."""
    folder = tmp_path_factory.mktemp("short")
    assert on_ranks(1, short_quickstart, folder, folder=folder) != [0]
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
    assert int(possible) <= int(near) <= 2 * int(possible)
    assert "(1, 192, 192) points, 1.2" in done.stdout
