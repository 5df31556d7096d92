"""Runs to be troubled: small ones on a packed data set, driven by the real command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import safetensors.numpy

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.storage.commit_record import read_records
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import read_events
from tests.integration.training_runs import run_file

T = TypeVar("T")

FULL = os.environ.get("MEDFUNCTA_CHAOS") == "full"
PATIENCE_S = 300.0
"""For whatever must come in the end, on a machine that does much else."""


def stage_run(
    storage: str, name: str, snapshot: str, *, workers: int = 2, lease_s: float = 6.0, **train: Any
) -> RunFile:
    """`run_file` as the stages take it: on a snapshot, with a lease that is over soon."""
    run = run_file(storage, name, workers=workers, **train)
    data = run.data.model_copy(update={"source": None, "reader": None, "snapshot": snapshot})
    cluster = run.cluster.model_copy(update={"lease_seconds": lease_s})
    return run.model_copy(update={"data": data, "cluster": cluster})


class Driver:
    """``medfuncta-dist train RUN.yaml --json`` as one process, its lines in a file."""

    def __init__(self, run: RunFile, folder: Path, **environment: str) -> None:
        run_yaml, self.log = folder / f"{run.name}.yaml", folder / f"{run.name}.log"
        run_yaml.write_text(dump(run))
        command = [str(Path(sys.executable).parent / "medfuncta-dist"), "train", str(run_yaml), "--json"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=log, text=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def ends(self, seconds: float = PATIENCE_S) -> tuple[int, dict[str, Any]]:
        """Wait for it: the exit code, and the one JSON object that it answered."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, json.loads(out) if out.strip() else {}

    def kill(self) -> None:
        """SIGKILL, and nothing of it is left."""
        self.process.kill()
        self.process.communicate()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


@contextmanager
def drives(run: RunFile, folder: Path, **environment: str) -> Iterator[Driver]:
    """A driver that is gone at the end of the block, whatever happens."""
    with Driver(run, folder, **environment) as driver:
        yield driver


def eventually(look: Callable[[], T | None], what: str, seconds: float = PATIENCE_S) -> T:
    """What ``look`` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.05)
    return found


def committed(store: ObjectStore, name: str) -> list[int]:
    """Steps of a run's committed checkpoints, ascending."""
    paths = [info.path for info in store.list(f"runs/{name}/checkpoints/commits")]
    return sorted(int(path.rsplit("/", 1)[-1][:9]) for path in paths)


def state_of(store: ObjectStore, name: str, step: int) -> dict[str, bytes]:
    """Each tensor of a committed checkpoint: parameters and moments, to the bit."""
    found = read_records(store, f"runs/{name}/checkpoints/commits", "checkpoint")
    [files] = [record.body["files"] for _, record in found if record.body["step"] == step]
    # By tensor: equal states are not equal files, whose headers name their two facts in any order.
    shares = [safetensors.numpy.load(store.read(file["path"])) for file in files]
    return {name: tensor.tobytes() for share in shares for name, tensor in share.items()}


def events(store: ObjectStore, name: str, kind: str) -> list[dict[str, Any]]:
    """Fields of a run's events of one kind, in order."""
    lines = read_events(store, name, lambda text: None)
    return [line["fields"] for line in lines if line["kind"] == "event" and line["name"] == kind]


def training_workers(below: psutil.Process) -> list[psutil.Process]:
    """Living training workers among the descendants of a process."""
    found = []
    for process in below.children(recursive=True):
        try:
            if any("TrainWorker" in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def losses_by_attempt(store: ObjectStore, name: str) -> list[dict[int, float]]:
    """Step → loss of each attempt, in order."""
    losses: list[dict[int, float]] = []
    for line in read_events(store, name):
        if line.get("name") == "started":
            losses.append({})
        if "loss" in line.get("values", {}):
            losses[-1][line["step"]] = line["values"]["loss"]
    return losses
