"""A stage's driver as a process that is watched from outside: its memory over time, and the CPU time of its cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.common import ROOT
from benchmarks.million.place import Nodes

EVERY_S = 1.0


class WatchedDriver:
    """``medfuncta-dist STAGE RUN.yaml --json`` on the nodes, with a sample of its memory every second."""

    def __init__(self, stage: str, run_yaml: Path, nodes: Nodes) -> None:
        self._nodes = nodes
        self.began, self.ended = time.time(), 0.0
        self.memory: list[tuple[float, float]] = []
        """Seconds since the beginning, and MB."""
        self.cpu_s = 0.0
        """Of the driver."""
        self.answer: dict[str, Any] = {}
        self.log = run_yaml.with_suffix(f".{stage}.log")
        command = [sys.executable, "-m", "medfuncta_dist.cli.app", stage, str(run_yaml), "--json"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=dict(nodes.environment), stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.communicate()
        self._end()

    def result(self) -> dict[str, Any]:
        """What it answers when it ends. SystemExit where it failed: 3 says that scans were quarantined."""
        out, _ = self.process.communicate()
        self._end()
        if self.process.returncode != 0:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"the driver ended with {self.process.returncode}: {out}\n{tail}")
        return dict(json.loads(out))

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.ended - self.began

    def __enter__(self) -> WatchedDriver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.running():
            self.kill()

    def _end(self) -> None:
        self.ended = time.time()
        self._watch.join()

    def _sample(self) -> None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                self.memory.append((time.time() - self.began, process.memory_info().rss / 1e6))
                self.cpu_s = sum(process.cpu_times()[:2])
                time.sleep(EVERY_S)


class CpuMeter:
    """CPU seconds of the nodes' processes: the last figure of each, also of those that have ended."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes, self._found, self._over = nodes, dict[int, float](), threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> CpuMeter:
        self._measure()
        self._before = self.total
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._measure()

    @property
    def total(self) -> float:
        """Of all processes since each began."""
        return sum(self._found.values())

    @property
    def seconds(self) -> float:
        """Since the meter began."""
        return self.total - self._before

    def _sample(self) -> None:
        while not self._over.wait(2 * EVERY_S):
            self._measure()

    def _measure(self) -> None:
        for process in self._nodes.processes():
            with suppress(psutil.Error):
                self._found[process.pid] = sum(process.cpu_times()[:2])


def growth(memory: Sequence[tuple[float, float]], until: float) -> dict[str, float]:
    """MB that a driver had at most in the first third of its seconds up to ``until``, in the others up to there, and
    after that; and by what share the second number is more than the first."""
    until = min(until, memory[-1][0])
    early = max(mb for at, mb in memory if at <= max(until / 3, memory[0][0]))
    late = max((mb for at, mb in memory if until / 3 <= at <= until), default=early)
    last = max((mb for at, mb in memory if at >= until), default=late)
    return {"first_third_mb": early, "later_mb": late, "at_the_end_mb": last, "growth": late / early - 1}
