"""A driver that maps tasks over Ray and keeps the log of a run: one task fails, one kills its worker once, one warns.

python -m tests.integration.logged_fanout STORAGE FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fanout import ray_fan_out, start_ray
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import Failed
from medfuncta_dist.telemetry.run_log.keep_log import enter_stage, keep_log

RUN = "mapped"


@dataclass(frozen=True)
class Job:
    """What a task does."""

    name: str
    folder: str


def task(job: Job) -> str:
    """Succeed, or not."""
    if job.name == "warns":
        warnings.warn("a value of 'DOE^JANE' is odd", stacklevel=1)
        time.sleep(1.2)
    if job.name == "fails":
        raise FileNotFoundError("/archive/DOE_JANE.dcm")
    killed = Path(job.folder) / "killed"
    if job.name == "dies" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return job.name


def drive(storage: str, folder: str) -> None:
    """Map the tasks; the error of the one that fails ends the driver."""
    run = RunFile.model_validate({"name": RUN, "storage": storage, "data": {"source": "unused", "shape": [8, 8]}})
    with keep_log(ObjectStore(storage), RUN, None, ["fit"]):
        start_ray(run)
        enter_stage("fit")
        jobs = [Job(name, folder) for name in ("warns", "dies", "fails")]
        outcomes = list(ray_fan_out(3, num_cpus=1)(task, jobs))
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        assert len(outcomes) == 3
        raise failed[0].error


if __name__ == "__main__":
    drive(*sys.argv[1:])
