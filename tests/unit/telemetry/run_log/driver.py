"""A process that keeps a run's log and prints a numbered line every so often: what tests kill, stop or leave alone.

python -m tests.unit.telemetry.run_log.driver ROOT SECONDS_BETWEEN LINES HOW_IT_ENDS
"""

from __future__ import annotations

import sys
import time

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.run_log.keep_log import enter_stage, keep_log, note

RUN = "logged"


def drive(root: str, every_s: float, lines: int, how: str) -> None:
    """Print the lines, then end: well, by an error of ours, or by another one."""
    with keep_log(ObjectStore(root), RUN, "logged-fit-1", ["fit"]):
        enter_stage("fit")
        for number in range(lines):
            note([f"line {number} at {time.time():.3f}"])
            print(number, flush=True)
            time.sleep(every_s)
        if how == "integrity":
            raise IntegrityError("the counts do not match", where=f"{root}/runs/x", do="run `verify`")
        if how == "crash":
            raise FileNotFoundError("/archive/DOE_JANE.dcm")


if __name__ == "__main__":
    drive(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
