"""What a process loads: `--help` next to nothing, the data side no torch."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import medfuncta_dist

HEAVY = {"torch", "ray", "deepspeed", "webdataset", "numpy", "pyarrow", "pydantic", "yaml", "s3fs", "wandb"}


def loaded_by(code: str) -> set[str]:
    """Top-level packages, and our own modules, in a fresh interpreter after ``code``."""
    script = f"import sys, json\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    modules = json.loads(out.splitlines()[-1])
    return {m.split(".")[0] for m in modules} | {m for m in modules if m.startswith("medfuncta_dist")}


def test_help_loads_neither_the_run_file_nor_anything_heavy():
    help_ = (
        "import sys\nsys.argv = ['medfuncta-dist', '--help']\nfrom medfuncta_dist.cli.app import main\ntry:\n main()\n"
    )
    loaded = loaded_by(help_ + "except SystemExit as exit:\n assert exit.code == 0")
    assert not loaded & HEAVY
    assert not loaded & {"medfuncta_dist.config.run_file", "medfuncta_dist.config.load"}
    assert "medfuncta_dist.cli.run" in loaded


@pytest.mark.parametrize("package", ["config", "scans", "shards", "storage"])
def test_the_data_side_never_loads_torch(package):
    path = f"{medfuncta_dist.__path__[0]}/{package}"
    modules = [m.name for m in pkgutil.walk_packages([path], f"medfuncta_dist.{package}.")]
    assert modules
    loaded = loaded_by("\n".join(f"import {name}" for name in modules))
    assert not loaded & {"torch", "deepspeed", "ray", "webdataset"}


def test_the_core_loads_nothing_but_torch_and_numpy():
    loaded = loaded_by("import medfuncta_dist.latents.fit, medfuncta_dist.fields.shared_network")
    assert "torch" in loaded
    assert not loaded & {"ray", "deepspeed", "webdataset", "pydantic", "pyarrow", "s3fs"}
