"""How a command ends, seen from outside: its exit code and its one answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize(("name", "quoted"), [("my.yaml", "my.yaml"), ("my run.yaml", "'my run.yaml'")])
def test_a_command_in_a_message_has_the_run_file_that_was_given(tmp_path: Path, name: str, quoted: str) -> None:
    script = (
        "from medfuncta_dist.cli.answer import answer\nfrom medfuncta_dist.errors import IntegrityError\n"
        "def work():\n    raise IntegrityError('lost', do='run `medfuncta-dist verify RUN.yaml --repair`')\n"
        "answer(work, as_json=True)"
    )
    (tmp_path / name).write_text("")
    for arguments, said in (([name], quoted), (["none.yaml"], "RUN.yaml"), ([], "RUN.yaml")):
        command = [sys.executable, "-c", script, "fit", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert ended.returncode == 4
        assert json.loads(ended.stdout)["error"]["do"] == f"run `medfuncta-dist verify {said} --repair`"
