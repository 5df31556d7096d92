"""The process of one section: imports what it needs, waits for its job on stdin, and runs.

It is started while the section before still runs, so that imports cost no time. When the process that started it is
gone, its end of the pipe closes, and this process ends, too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.bench import Bench, Skipped
from benchmarks.gpu.plan import Job
from benchmarks.gpu.result_lines import append, last_lines_of


def main(module: str) -> None:
    """Run the section of this module once its job comes."""
    section = import_module(module)
    line = sys.stdin.readline()
    if not line:
        return
    job = Job(**json.loads(line))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outcome = {"status": "done"}
    try:
        section.run(Bench(job))
    except Skipped as why:
        outcome = {"status": "skipped", "why": str(why)}
    except Exception as error:
        outcome = {"status": "failed", "why": last_lines_of(error)}
    append(Path(job.results), {"run": job.run, "section": job.section, "outcome": outcome})


def _end_with_parent() -> None:
    sys.stdin.read()
    if os.getpgrp() == os.getpid():  # as the runner starts it: with the processes that it has started itself
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # some libraries hang when they clean up after a device error; all results are on disk
