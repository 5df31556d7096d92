from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from medfuncta_dist.meta.machine.memory import keep_freed_memory
kept = keep_freed_memory()
def work():
    held = [torch.full((2**21,), 1.0) for _ in range(12)]
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    work()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def kept_and_faults(**variables: str) -> tuple[int, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=clean | variables, capture_output=True, check=True)
    kept, faults = done.stdout.split()
    return int(kept), int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the habit that is broken here")
def test_freed_memory_is_taken_again_without_asking_the_system():
    pages = 4 * 12 * 2**23 // os.sysconf("SC_PAGE_SIZE")
    kept, faults = kept_and_faults()
    assert kept == 1
    assert faults < pages / 20


def test_whoever_set_the_c_librarys_own_variables_is_left_alone():
    assert kept_and_faults(MALLOC_TRIM_THRESHOLD_="1000000000")[0] == 0
