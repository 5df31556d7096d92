"""A Ray cluster of several nodes on this machine, with dashboard and token, each node a process group of its own.

Unlike the session's cluster, it can be lost: node by node, or whole, as Kueue takes a suspended job's cluster away.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

RAY = str(Path(sys.executable).parent / "ray")
UP_S = 90.0


class RayNodes:
    """``with RayNodes() as nodes: nodes.up(2)``: a head without CPUs, and workers of ``cpus`` each."""

    def __init__(self, cpus: int = 2) -> None:
        self.cpus, self.token = cpus, secrets.token_hex(32)
        self.folder = Path(tempfile.mkdtemp(prefix="mf-"))  # short: Ray's sockets lie below it
        self.gcs, self.dashboard = _free_port(), _free_port()
        self.head: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_API_SERVER_ADDRESS": self.address,
            "MEDFUNCTA_BACKEND": "ray",
        }

    def up(self, workers: int) -> None:
        """Start the head and so many workers, and wait for all of them."""
        here = ["--head", f"--port={self.gcs}", f"--temp-dir={self.folder / 'ray'}", "--num-cpus=0"]
        board = ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
        self.head = self._start(*here, *board)
        self._wait(self.answers)
        for _ in range(workers):
            self.add()

    def add(self) -> subprocess.Popen[bytes]:
        """One more worker. On a busy machine a node may lose a port that it chose, and never comes: another try."""
        for last in (False, True):
            self.workers.append(self._start(f"--address=127.0.0.1:{self.gcs}", f"--num-cpus={self.cpus}"))
            if self._wait(lambda: self.alive() > len(self.workers), fail=last):
                break
            _kill(self.workers.pop())
        return self.workers[-1]

    def answers(self) -> bool:
        """Whether the Jobs API is there."""
        return self.status_of("/api/jobs/", self.token) == 200

    def status_of(self, path: str, token: str | None) -> int:
        """The HTTP status of a plain GET; 0 when nobody answers."""
        request = urllib.request.Request(self.address + path)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def read(self, path: str) -> dict[str, Any]:
        """The JSON of a GET with the cluster's token."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def alive(self) -> int:
        """Nodes that the cluster counts, the head included."""
        request = urllib.request.Request(f"{self.address}/nodes?view=summary")
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                summary = json.load(answer)["data"]["summary"]
        except (OSError, KeyError, ValueError):
            return 0
        return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)

    def metrics(self) -> set[str]:
        """Names of this tool's metrics, as Prometheus would find them."""
        found = json.loads((self.folder / "ray" / "prom_metrics_service_discovery.json").read_text())
        names: set[str] = set()
        for target in [target for group in found for target in group["targets"]]:
            with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
                names |= set(re.findall(r"^(ray_medfuncta_\w+)\{", answer.read().decode(), re.MULTILINE))
        return names

    def lose_node_of(self, pid: int) -> None:
        """Kill the worker node that a process runs on, at once and whole."""
        above = {parent.pid for parent in psutil.Process(pid).parents()}
        node = next(node for node in self.workers if node.pid in above)
        _kill(node)
        self.workers.remove(node)

    def down(self) -> None:
        """Kill everything: nothing of the cluster is left."""
        for node in [*self.workers, *([self.head] if self.head else [])]:
            _kill(node)
        self.head, self.workers = None, []

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        # All nodes of this machine, of other clusters too, would have one port for the agent that starts jobs.
        agent = f"--dashboard-agent-listen-port={_free_port()}"
        command = [RAY, "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", agent, *arguments]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        extra = {"PATH": path, "OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "120", **self.environment}
        with (self.folder / "nodes.log").open("ab") as log:
            outputs = {"stdout": log, "stderr": log}
            command = [*command, "--object-store-memory=80000000"]
            return subprocess.Popen(command, env=kept | extra, start_new_session=True, **outputs)

    def _wait(self, there: Callable[[], bool], *, fail: bool = True) -> bool:
        deadline = time.monotonic() + UP_S
        while not there():
            if time.monotonic() > deadline:
                assert not fail, (self.folder / "nodes.log").read_text()[-3000:]
                return False
            time.sleep(0.3)
        return True


def _kill(node: subprocess.Popen[bytes]) -> None:
    """The node's whole tree: workers are process groups of their own."""
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
