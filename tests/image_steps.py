"""The Dockerfile's steps for one target, taken in order on a machine that has no container engine.

    python -m tests.image_steps cpu [DIR]

DIR is a build context that `medfuncta-dist image` has written; without it, the clone is one, with cluster/Dockerfile.
COPY and RUN happen below a temporary folder, whose paths stand in for the image's; ENV and ARG hold for the steps after
them. What changes the system itself (apt-get, useradd) is named and left out. It installs everything once more: about
2 GB and some minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = ("apt-get", "useradd")
PLACES = ("/opt/medfuncta", "/build", "/wheels", "/home/medfuncta")


def main() -> None:
    """Take the target's steps; the first that fails ends it."""
    target = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    context = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT
    steps = instructions(context / "Dockerfile" if context != ROOT else ROOT / "cluster" / "Dockerfile")
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        image = Image(Path(folder), context)
        for stage in stages(target):
            print(f"== stage {stage}", flush=True)
            for instruction, rest in steps[stage]:
                image.take(instruction, rest)
    print(f"target {target}: {image.done} RUN steps taken, {image.left_out} left out (they change the system)")


class Image:
    """A folder that plays the image."""

    def __init__(self, folder: Path, context: Path = ROOT) -> None:
        self.folder, self.context, self.done, self.left_out = folder, context, 0, 0
        self.work = self.inside("/build")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON"))}
        for place in PLACES:
            self.inside(place).parent.mkdir(parents=True, exist_ok=True)

    def take(self, instruction: str, rest: str) -> None:
        """One instruction; those without an effect on files are passed over."""
        if instruction in ("ENV", "ARG"):
            for name, value in re.findall(r'(\w+)=("[^"]*"|\S*)', rest):
                self.environment[name] = self._value(name, value.strip('"'), instruction)
        elif instruction == "WORKDIR":
            self.work = self.inside(rest)
            self.work.mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY" and not rest.startswith("--from"):
            self._copy(*rest.split())
        elif instruction == "RUN":
            self._run(rest)

    def _value(self, name: str, value: str, instruction: str) -> str:
        if instruction == "ARG" and name in self.environment:
            return self.environment[name]  # as --build-arg would have it
        known = self.environment.get
        return re.sub(r"\$\{?(\w+)\}?", lambda found: known(found[1], ""), self._placed(value))

    def _copy(self, *names: str) -> None:
        *sources, destination = names
        place = self.inside(destination) if destination.startswith("/") else self.work / destination
        for source in sources:
            to = place / source if destination.endswith("/") else place
            to.parent.mkdir(parents=True, exist_ok=True)
            if (self.context / source).is_dir():
                shutil.copytree(self.context / source, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(self.context / source, to)

    def _run(self, step: str) -> None:
        command = re.sub(r"--mount=\S+\s+", "", step)
        if any(word in command for word in SYSTEM):
            self.left_out += 1
            print(f"left out: {command}", flush=True)
            return
        print(f"RUN {command}", flush=True)
        shell = ["bash", "-euo", "pipefail", "-c", self._placed(command)]
        subprocess.run(shell, cwd=self.work, env=self.environment, check=True, stdout=sys.stderr)
        self.done += 1

    def _placed(self, text: str) -> str:
        """The image's paths as they are here."""
        for place in PLACES:
            text = text.replace(place, str(self.inside(place)))
        return text

    def inside(self, path: str) -> Path:
        """Where a path of the image is here."""
        return self.folder / path.lstrip("/")


def instructions(dockerfile: Path) -> dict[str, list[tuple[str, str]]]:
    """Each stage's instructions, continued lines joined, comments gone."""
    text = dockerfile.read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            current = found.setdefault(rest.split()[-1], [])
        current.append((word, re.sub(r"\s+", " ", rest)))
    return found


def stages(target: str) -> Iterator[str]:
    """The stages that ``target`` is made of, in the order they are built."""
    yield from ("base", "packages", f"packages-{target}", "wheel", "node", target)


if __name__ == "__main__":
    main()
