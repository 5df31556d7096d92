"""Ray's messages become a sentence of ours, or nothing; workers' lines are told apart."""

from __future__ import annotations

import pytest

from medfuncta_dist.telemetry.run_log.ray_output import RayOutput, sentence_of
from medfuncta_dist.telemetry.run_log.redaction import Scrubber
from medfuncta_dist.telemetry.run_log.worker_lines import logged, parse_marked

OOM = (
    "1 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed due to other reasons at node "
    "(ID: 9f8a, IP: 10.0.0.3) over the last time period."
)
DIED = "A worker died or was killed while executing a task by an unexpected system error. Worker PID: 4711"
LOST = "The node with node id: ab12 and address: 10.0.0.3 and node name: 10.0.0.3 has been marked dead because ..."
FULL = "[2026-11-28 10:00:00,1 E 1 2] (raylet) file_system_monitor.cc:111: /tmp/ray/session is over 95% full, available"
NO_ROOM = "Error: No available node types can fulfill resource requests {'GPU': 8.0}*1. Add suitable node types"


@pytest.mark.parametrize(
    ("message", "word"),
    [(OOM, "memory"), (DIED, "died"), (LOST, "lost"), (FULL, "disk"), (NO_ROOM, "room"), ("Resized to 4 CPUs.", None)],
)
def test_what_a_message_means(message, word):
    sentence = sentence_of(message)
    assert sentence is None if word is None else word in sentence


def test_the_same_sentence_is_said_once_a_minute():
    output = RayOutput(Scrubber())
    batch = {"pid": "raylet", "lines": [DIED]}
    said = [len(list(output.sentences(batch, now))) for now in (0.0, 30.0, 59.0, 61.0)]
    assert said == [1, 0, 0, 1]


def test_nobody_is_told_what_a_worker_prints():
    assert list(RayOutput(Scrubber()).sentences({"pid": 4711, "lines": [DIED]}, 0.0)) == []


def test_lines_of_workers_carry_where_they_come_from():
    lines = ["[medfuncta info rank 3] a training worker starts", "reading Jane Doe", "WARNING: low 'x'"]
    batch = {"pid": "4711", "ip": "10.0.0.3", "is_err": True, "lines": lines}
    found = list(RayOutput(Scrubber()).entries(batch, 5.0, "train"))
    assert [(e.source, e.pid, e.node, e.rank, e.level, e.text) for e in found] == [
        ("worker", 4711, "10.0.0.3", 3, "info", "a training worker starts"),
        ("worker", 4711, "10.0.0.3", None, "warning", "WARNING: low <text>"),
    ]
    assert {(e.time, e.stage) for e in found} == {(5.0, "train")}


def test_tracebacks_of_two_workers_do_not_mix():
    output = RayOutput(Scrubber())

    def texts(pid, line):
        return [entry.text for entry in output.entries({"pid": pid, "ip": "h", "lines": [line]}, 0.0, "")]

    assert texts(1, "Traceback (most recent call last):") == ["Traceback (most recent call last):"]
    assert texts(2, "ValueError: DOE^JANE") == []
    assert texts(1, "ValueError: DOE^JANE") == ["ValueError"]


def test_an_error_that_a_worker_told_is_not_told_again_by_ray():
    output, lines = RayOutput(Scrubber.of("/storage")), ["Traceback (most recent call last):", "OSError: x"]
    told = [entry.text for entry in output.entries({"pid": 1, "ip": "h", "lines": lines}, 0.0, "")]
    assert told == ["Traceback (most recent call last):", "OSError"]
    marked = "[medfuncta error rank 1]   where: /storage/runs/x"
    batch = {"pid": 1, "ip": "h", "lines": [marked, *lines, "ERROR: another"]}
    assert [entry.text for entry in output.entries(batch, 1.0, "")] == ["  where: storage:runs/x", "ERROR: another"]
    assert [entry.text for entry in output.entries({"pid": 1, "ip": "h", "lines": lines}, 60.0, "")] == told


def test_rays_own_message_is_kept_whole_in_the_log():
    (entry,) = RayOutput(Scrubber()).entries({"pid": "raylet", "lines": [DIED]}, 0.0, "fit")
    assert (entry.source, entry.level) == ("ray", "warning")
    assert "4711" in entry.text


def test_a_task_that_fails_says_so_without_its_message(capfd):
    def task(item):
        raise ValueError("DOE^JANE")

    with pytest.raises(ValueError, match="DOE"):
        logged(task)("an item")
    lines = [parse_marked(line) for line in capfd.readouterr().err.splitlines()]
    assert lines[0] == ("error", None, "str failed")
    assert lines[-1] == ("error", None, "ValueError")
    assert "DOE" not in str(lines)


def test_a_quick_task_says_nothing(capfd):
    assert logged(len)("four") == 4
    assert capfd.readouterr().err == ""
