"""The wheel in a fresh environment, outside the clone: what a user of the package index gets.

    python -m tests.fresh_install dist/*.whl

Makes an environment in a temporary folder, installs the wheel with the quickstart's extra and the pins, runs a short
quickstart and a dry-run submission from it. About 2 GB and some minutes; `make test` has a short form
(tests/unit/packaging/test_wheel.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHORT = ("train.steps=20", "train.checkpoint_steps=10", "train.validate_steps=10", "fit.steps=2")
"""For the quickstart: whether all of it runs, not how well."""


def main() -> None:
    """Install the wheel that the command line names, and try it; the first thing that fails ends it."""
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="fresh-") as folder:
        fresh = Path(folder) / "environment"
        print(f"== a fresh environment in {fresh}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
        command = [fresh / "bin/python", "-m", "pip", "install", "-q", f"{wheel}[quickstart]"]
        pins = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
        subprocess.run(command, env=outside() | pins, cwd=folder, check=True)
        installed = Installed(fresh / "bin/python", fresh / "bin/medfuncta-dist", Path(folder), outside())
        place = installed.package()
        assert place.is_relative_to(fresh.resolve()), place
        print(f"== {installed.said('--version').strip()} in {place}", flush=True)
        made = installed.dry_run(place / "jobs/chest-xray-64.yaml", "pack", "train", "fit", "evaluate")
        print(f"== a dry run rendered {', '.join(made)}", flush=True)
        figures = installed.quickstart()
        print(f"== the quickstart fitted {figures['fit']['counts']['fitted']} scans", flush=True)


def outside() -> dict[str, str]:
    """This process's environment without what would lead back to the clone."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


class Installed:
    """An installed package, used as a user does: by its command, from a folder that is not the clone."""

    def __init__(self, python: Path, command: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self.python, self.command, self.folder = python, command, folder
        # A dry run asks storage for earlier attempts: without credentials it goes on at once.
        self.environment = {**environment, "AWS_EC2_METADATA_DISABLED": "true", "WANDB_MODE": "offline"}

    def package(self) -> Path:
        """Where the package is imported from."""
        code = "import medfuncta_dist; print(medfuncta_dist.__file__)"
        return Path(self._run([self.python, "-P", "-c", code]).strip()).resolve().parent

    def said(self, *arguments: str | Path) -> str:
        """What a command prints; it must succeed."""
        return self._run([self.command, *arguments])

    def dry_run(self, run_file: Path, *stages: str) -> list[str]:
        """The names of the jobs that would be submitted."""
        answer = json.loads(self.said("submit", run_file, *stages, "--dry-run", "--json"))
        return [manifest["metadata"]["name"] for manifest in answer["manifests"]]

    def quickstart(self) -> dict[str, Any]:
        """The figures of a short quickstart that left its report."""
        sets = [word for key in SHORT for word in ("--set", key)]
        figures: dict[str, Any] = json.loads(self.said("quickstart", "--workdir", "quickstart", *sets, "--json"))
        assert (self.folder / "quickstart" / "report.html").stat().st_size > 10_000
        return figures

    def _run(self, command: Sequence[str | Path]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}"
        return done.stdout


if __name__ == "__main__":
    main()
