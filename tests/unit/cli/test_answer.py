"""How a command ends, seen from outside: its exit code and its one answer."""

from __future__ import annotations

import json
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
