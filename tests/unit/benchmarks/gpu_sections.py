"""Sections that behave badly, each by its name: what `make gpu` must survive on a machine that nobody has tried."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from benchmarks.gpu.bench import Bench, Skipped


def run(bench: Bench) -> None:
    """As the section is called."""
    bench.tell("before", {"number": 1.0})
    {"hangs": hangs, "dies": dies, "raises": raises, "skips": skips, "works": works}[bench.job.section](bench)


def hangs(bench: Bench) -> None:
    """With a process of its own that would outlive it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    bench.tell("child", {"pid": child.pid})
    time.sleep(600)


def dies(bench: Bench) -> None:
    """As on an error in a driver."""
    print("the device is lost", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGABRT)


def raises(bench: Bench) -> None:
    """In a part, which the next part survives, and then outside of parts."""

    def fails() -> dict[str, float]:
        raise ValueError("no such kernel")

    bench.part("fails", fails)
    bench.part("after", lambda: {"number": 2.0})
    raise RuntimeError("nothing works")


def skips(bench: Bench) -> None:
    """Says why."""
    raise Skipped("needs a quantum computer")


def works(bench: Bench) -> None:
    """The last one."""
    bench.part("number", lambda: {"number": 3.0})
