"""Make the environment that `make` works in, and never take a half-made one for whole.

    python .ci/install.py .venv

pip takes a package for installed as soon as its metadata is there, and writes that before the last of its files: an
installation that was interrupted can leave a package with files missing or cut short that no later pip mends. So a
marker in the environment, written last, says what was installed: a digest of pyproject.toml, constraints.txt, the
Python, and the places of the environment and of the clone. Where it is missing or differs (a first run, an interrupted
one, changed pins, a moved clone):

1. every installed package is compared with the checksums of its own RECORD, and its scripts with where they are now;
   one that does not match loses its metadata, so that pip takes it for missing;
2. pip installs what is missing;
3. everything is compared once more, and the marker is written.

One process at a time works on an environment. It uses the standard library only: nothing is installed yet.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: without a lock
    fcntl = None

ROOT = Path(__file__).resolve().parent.parent
PINS = ("pyproject.toml", "constraints.txt")
OLDEST = (3, 11)
SHEBANG = 512
"""Bytes at the start of a script in which its interpreter is named, long paths included."""
ASK = "import json, sys, sysconfig as s; print(json.dumps([sys.version, s.get_path('purelib'), s.get_path('platlib')]))"


class Failed(Exception):
    """In words, with what to do."""


def main() -> None:
    """Make the environment that the command line names, unless it is whole."""
    environment = Environment(Path(sys.argv[1]).resolve())
    if environment.is_whole():
        return
    with only_one(environment) as lock:
        if not environment.is_whole():  # another one may have made it while this one waited
            environment.install(lock)


class Environment:
    """A virtual environment; the folder need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / ("Scripts" if os.name == "nt" else "bin")
        self.python, self.marker = self.bin / "python", folder / ".installed"

    def is_whole(self) -> bool:
        """Whether everything was installed, here, from these pins, and the interpreter still runs."""
        return self.marker.is_file() and self.marker.read_text() == self.digest()

    def digest(self) -> str | None:
        """Of all that an installation depends on; None where the interpreter does not run."""
        about = self.interpreter()
        if about is None:
            return None
        pins = [hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in PINS]
        return hashlib.sha256(json.dumps([about, str(self.folder), str(ROOT), pins]).encode()).hexdigest()

    def interpreter(self) -> list[str] | None:
        """Its version, and the folders of its packages."""
        try:
            asked = subprocess.run([str(self.python), "-I", "-c", ASK], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return list(json.loads(asked.stdout))

    def install(self, lock: int | None) -> None:
        """Install everything, and mend what an earlier installation left."""
        print(
            f"Installing into {self.folder}, pinned by constraints.txt (about 2 GB; a few minutes, once) ...",
            flush=True,
        )
        self.marker.unlink(missing_ok=True)
        self._make(lock)
        for package in self.damaged():
            print(f"{package.name} is not whole, or from another place: installing it again", flush=True)
            shutil.rmtree(package)
        self._give_pip(lock)
        options = ["-q", "--disable-pip-version-check", "-e", ".[dev]"]
        step([self.python, "-m", "pip", "install", *options], lock, PIP_CONSTRAINT="constraints.txt")
        left = [package.name for package in self.damaged()]
        if left:
            raise Failed(f"not whole after the installation: {', '.join(left)}; is the disk full? Run it again")
        self.marker.write_text(self.digest() or "")

    def _make(self, lock: int | None) -> None:
        """The folder, its interpreter and its `activate`, where they are missing or name another place."""
        runs, activate = self.interpreter() is not None, self.bin / "activate"
        if runs and activate.is_file() and str(self.folder) in activate.read_text(errors="replace"):
            return
        if not runs and sys.version_info < OLDEST:
            raise Failed("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")
        dead = not runs and (self.folder / "pyvenv.cfg").is_file()  # its Python is gone, or never came
        made = [self.python if runs else sys.executable, "-m", "venv", "--without-pip", *(["--clear"] if dead else [])]
        step([*made, self.folder], lock)

    def _give_pip(self, lock: int | None) -> None:
        if not any(list(folder.glob("pip-*.dist-info")) for folder in self.packages()):
            step([self.python, "-I", "-m", "ensurepip", "--upgrade", "--default-pip"], lock)

    def packages(self) -> list[Path]:
        """The folders that packages are installed into."""
        about = self.interpreter()
        if about is None:
            raise Failed(f"{self.python} does not run: remove {self.folder}, and start again")
        return sorted({Path(folder) for folder in about[1:]})

    def damaged(self) -> list[Path]:
        """The metadata folders of packages that are not as they should be."""
        metadata = [found for folder in self.packages() for found in folder.glob("*.dist-info")]
        owners: dict[Path, list[tuple[Path, str]]] = {}
        bad = {package for package in metadata if not (package / "RECORD").is_file()}
        for package in set(metadata) - bad:
            for file, digest in recorded(package):
                owners.setdefault(file, []).append((package, digest))
        with ThreadPoolExecutor() as pool:
            for file, found in pool.map(lambda file: (file, self._state(file)), owners):
                # A file that two packages bring is as one of them has it.
                if found not in [digest for _, digest in owners[file]]:
                    bad |= {package for package, _ in owners[file]}
        return sorted(bad)

    def _state(self, file: Path) -> str | None:
        """The file's digest as RECORD writes it; None where it is missing or runs another environment's Python."""
        try:
            data = file.read_bytes()
        except OSError:
            return None
        if file.parent == self.bin and names_python(data[:SHEBANG]) and os.fsencode(self.bin) not in data[:SHEBANG]:
            return None
        return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def names_python(head: bytes) -> bool:
    """Whether a script starts with the place of its Python, as pip writes it."""
    return head.startswith(b"#!") and b"python" in head and not head.startswith(b"#!/usr/bin/env")


def recorded(package: Path) -> Iterator[tuple[Path, str]]:
    """Each file of a package whose digest its RECORD holds (compiled files have none), with the digest."""
    with (package / "RECORD").open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            if len(row) > 1 and row[1]:
                yield Path(os.path.normpath(package.parent / row[0])), row[1]


@contextmanager
def only_one(environment: Environment) -> Iterator[int | None]:
    """Hold the environment's lock; yields its file descriptor.

    The system gives a lock back when the last process that has it ends. The steps inherit it: when this process is
    killed alone, pip goes on, and the next one waits for it.
    """
    if fcntl is None:
        yield None
        return
    environment.folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{environment.folder}.lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process is installing into {environment.folder}: waiting for it ...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def step(command: list[object], lock: int | None, **variables: str) -> None:
    """Run a command in the clone; Failed where it fails (it has said why)."""
    words = [str(word) for word in command]
    kept = () if lock is None else (lock,)
    if subprocess.run(words, cwd=ROOT, env={**os.environ, **variables}, pass_fds=kept, check=False).returncode:
        raise Failed(f"this step failed: {' '.join(words)}")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on where it stopped")
