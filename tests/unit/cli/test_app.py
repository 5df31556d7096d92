"""The exit code is the command's, whatever its libraries do at the end of the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ENDING = """
import atexit, os, sys
sys.modules["ray"] = None
atexit.register(os._exit, 1)  # as Ray's core does when it is asked something after its end
from medfuncta_dist.cli.app import main
sys.argv = ["medfuncta-dist", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["train", "missing.yaml"], 2)])
def test_the_code_is_kept_on_a_cluster_that_is_not_ours(arguments: list[str], code: int) -> None:
    environment = os.environ | {"RAY_ADDRESS": "192.0.2.1:6379"}
    done = subprocess.run([sys.executable, "-c", ENDING, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert (done.stdout if code == 0 else done.stderr).strip(), "what was said is lost"
