"""A run's log on a real Ray cluster and a real S3: what workers say is in storage, and Ray's own words on no screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.run_log.log_format import LogEntry
from medfuncta_dist.telemetry.run_log.log_reader import ALL, list_attempts, read_attempt
from tests.integration.logged_fanout import RUN

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_workers_that_warn_fail_and_die_are_in_the_log(s3, tmp_path):
    root = s3()
    command = [sys.executable, "-m", "tests.integration.logged_fanout", root, str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    store = ObjectStore(root)
    (attempt,) = list_attempts(store, RUN)
    entries = list(read_attempt(store, attempt, ALL, print))
    workers = [entry for entry in entries if entry.source == "worker"]
    require_said(workers, "Job fails failed", "FileNotFoundError", "UserWarning: a value of <text> is odd")
    require_said(workers, "Job warns took 1.")
    assert any("logged_fanout" in entry.text or "another file" in entry.text for entry in workers), "the place"
    assert all(entry.pid and entry.node and entry.stage == "fit" for entry in workers)
    require_said([entry for entry in entries if entry.source == "ray"], "A worker died or was killed")
    driver = [entry for entry in entries if entry.source == "driver"]
    require_said(driver, "a worker process died", "the worker of Job dies died (killed or crashed): it is tried again")
    assert driver[-1].text == "FileNotFoundError", "how it ended"
    assert "DOE" not in "".join(entry.text for entry in entries)
    assert "a worker process died: what it was doing starts again" in done.stderr
    assert "(raylet)" not in done.stderr + done.stdout
    assert "pid=" not in done.stderr + done.stdout


def require_said(entries: list[LogEntry], *texts: str) -> None:
    for text in texts:
        assert any(text in entry.text for entry in entries), text
