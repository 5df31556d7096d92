"""How a command ends, seen from outside: its exit code and its one answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("end", ["KeyboardInterrupt", "SystemExit(signal.SIGTERM)", "SystemExit(15)"])
def test_an_interrupted_command_is_resumable_however_the_signal_arrives(end: str) -> None:
    """Ray replaces our handler of SIGTERM by one that leaves with SystemExit."""
    code = (
        "import signal\nfrom medfuncta_dist.cli.answer import answer\n"
        f"def work():\n    print('not the answer')\n    raise {end}\nanswer(work, as_json=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 5, ended.stderr
    assert json.loads(ended.stdout)["error"]["kind"] == "Interrupted"


@pytest.mark.parametrize(("job", "code"), [(None, 3), ("job-1", 0)])
def test_quarantined_scans_are_no_failure_of_a_job(job: str | None, code: int) -> None:
    """A cluster takes any other code for a failure, and would do it all again."""
    script = "from medfuncta_dist.cli.answer import answer\nanswer(lambda: {'quarantined': 2}, as_json=True)"
    environment = {name: value for name, value in os.environ.items() if name != "MEDFUNCTA_JOB"}
    environment |= {"MEDFUNCTA_JOB": job} if job else {}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == code, ended.stderr
    assert json.loads(ended.stdout) == {"quarantined": 2, "exit_code": code}


def test_a_full_disk_is_told_in_words_wherever_it_shows() -> None:
    script = (
        "import errno\nfrom medfuncta_dist.cli.answer import answer\n"
        "def work():\n    raise OSError(errno.ENOSPC, 'No space left on device', '/tmp/name-of-a-patient.csv')\n"
        "answer(work, as_json=True)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["error"]["kind"]) == (1, "DiskFullError")
    assert told["error"]["do"]
    assert "Traceback" not in ended.stderr
    assert "patient" not in ended.stderr + ended.stdout
