"""Which process is dead, and of which that cannot be known."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from medfuncta_dist.storage.leases.lease_holder import Holder, has_ended, this_process


def holder_in_another_process() -> tuple[subprocess.Popen[str], Holder]:
    code = "from medfuncta_dist.storage.leases.lease_holder import this_process\nimport json\n"
    code += "print(json.dumps(this_process().fields()), flush=True)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    assert process.stdout is not None
    return process, Holder.of(json.loads(process.stdout.readline()))


def test_a_killed_process_has_ended_even_while_its_parent_has_not_noticed():
    process, holder = holder_in_another_process()
    assert not has_ended(holder)
    process.kill()
    while not has_ended(holder):  # a zombie now: nobody has waited for it
        assert process.returncode is None
    process.communicate()
    assert has_ended(holder)


def test_a_number_that_was_given_again_is_another_process():
    assert has_ended(replace(this_process(), started="1"))
    assert not has_ended(this_process())


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"boot": "other"}, {"space": "pid:[1]"}, {"boot": ""}])
def test_nothing_is_said_of_processes_elsewhere(elsewhere):
    assert not has_ended(replace(this_process(), pid=2**22, **elsewhere))
    assert has_ended(replace(this_process(), pid=2**22))


def test_a_holder_survives_its_record():
    holder = this_process()
    assert Holder.of(holder.fields()) == holder
    assert this_process().id != holder.id
