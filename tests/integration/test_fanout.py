"""Ray tasks on a real cluster: order, window, deaths, errors, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from medfuncta_dist import fanout
from medfuncta_dist.errors import IntegrityError, LimitReachedError, RunFileError, WorkerDiedError
from medfuncta_dist.fanout import ray_fan_out, require_room
from medfuncta_dist.task_map import Done, Failed, limited

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True)
class Job:
    """What the tasks below do, and where they leave their marks."""

    number: int
    folder: str
    seconds: float = 0.0
    deaths: int = 0

    @property
    def name(self) -> str:
        return str(self.number)


def work(job: Job) -> int:
    """Leaves a mark an attempt; dies by kill -9 in the first ``deaths`` of them; records how many run at once."""
    marks = len(list(Path(job.folder).glob(f"{job.number}-*")))
    Path(job.folder, f"{job.number}-{marks}").touch()
    if marks < job.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    running = Path(job.folder, f"running-{job.number}")
    running.touch()
    Path(job.folder, f"seen-{job.number}").write_text(str(len(list(Path(job.folder).glob("running-*")))))
    time.sleep(job.seconds)
    running.unlink()
    return job.number * 10


def attempts(job: Job) -> int:
    return len(list(Path(job.folder).glob(f"{job.number}-*")))


def test_every_item_ends_once_and_quick_ones_first(tmp_path: Path) -> None:
    jobs = [Job(0, str(tmp_path), seconds=2.0), *(Job(n, str(tmp_path)) for n in range(1, 8))]
    outcomes = list(ray_fan_out(4, num_cpus=1)(work, jobs))
    assert sorted(o.item.number for o in outcomes) == list(range(8))
    assert all(isinstance(o, Done) and o.result == o.item.number * 10 for o in outcomes)
    assert outcomes[-1].item.number == 0


def test_a_killed_worker_is_tried_again_and_others_are_not(tmp_path: Path) -> None:
    jobs = [Job(0, str(tmp_path), deaths=2), Job(1, str(tmp_path))]
    outcomes = list(ray_fan_out(2, num_cpus=1, max_attempts=3)(work, jobs))
    assert {o.item.number: o.result for o in outcomes if isinstance(o, Done)} == {0: 0, 1: 10}
    assert [attempts(job) for job in jobs] == [3, 1]


def test_a_task_that_kills_every_worker_fails_and_the_rest_finish(tmp_path: Path) -> None:
    jobs = [Job(0, str(tmp_path), deaths=99), Job(1, str(tmp_path)), Job(2, str(tmp_path))]
    outcomes = {o.item.number: o for o in ray_fan_out(2, num_cpus=1, max_attempts=2)(work, jobs)}
    failed = outcomes[0]
    assert isinstance(failed, Failed)
    assert failed.attempts == 2 == attempts(jobs[0])
    assert isinstance(failed.error, WorkerDiedError)
    assert "died" in str(failed.error)
    assert isinstance(outcomes[1], Done)
    assert isinstance(outcomes[2], Done)


def refuse(item: tuple[int, str]) -> None:
    number, folder = item
    Path(folder, f"{number}-{time.monotonic_ns()}").touch()
    if number == 0:
        raise IntegrityError("bytes are wrong", where="shard 7", do="look")
    raise ValueError("plain")


def test_errors_come_back_as_themselves_and_are_not_tried_again(tmp_path: Path) -> None:
    items = [(0, str(tmp_path)), (1, str(tmp_path))]
    outcomes = {o.item[0]: o for o in ray_fan_out(2, num_cpus=1)(refuse, items)}
    ours, plain = outcomes[0], outcomes[1]
    assert isinstance(ours, Failed)
    assert type(ours.error) is IntegrityError
    assert (ours.error.what, ours.error.where, ours.error.do) == ("bytes are wrong", "shard 7", "look")
    assert isinstance(plain, Failed)
    assert type(plain.error) is ValueError
    assert len(list(tmp_path.iterdir())) == 2


def test_the_window_bounds_what_is_started(tmp_path: Path) -> None:
    jobs = [Job(n, str(tmp_path), seconds=0.1) for n in range(12)]
    taken = []

    def watched() -> Any:
        for job in jobs:
            taken.append(job)
            yield job

    landed = 0
    for _ in ray_fan_out(3, num_cpus=0.5)(work, watched()):
        landed += 1
        assert len(taken) <= landed + 2  # this one has ended, and at most two more are in flight
    assert landed == 12
    assert max(int(f.read_text()) for f in tmp_path.glob("seen-*")) <= 3


def test_closing_early_starts_nothing_more(tmp_path: Path) -> None:
    jobs = [Job(n, str(tmp_path), seconds=0.05) for n in range(20)]
    outcomes = ray_fan_out(2, num_cpus=1)(work, jobs)
    assert len(list(islice(outcomes, 3))) == 3
    outcomes.close()  # type: ignore[attr-defined]
    time.sleep(0.5)
    assert sum(attempts(job) for job in jobs) <= 5


def slow_at_first(job: Job) -> int:
    """Takes its time, and once only; the next copy is quick."""
    mark = Path(job.folder, f"{job.number}-{time.monotonic_ns()}")
    mark.touch()
    time.sleep(job.seconds if attempts(job) == 1 else 0.0)
    return os.getpid()


@pytest.mark.parametrize("race", [False, True])
def test_a_straggler_is_told_and_raced_when_nothing_else_is_left(
    tmp_path: Path, race: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "STRAGGLER_MIN_S", 1.0)
    jobs = [
        Job(0, str(tmp_path), seconds=30.0 if race else 4.0),
        *(Job(n, str(tmp_path), seconds=0.1) for n in range(1, 6)),
    ]
    lines: list[str] = []
    began = time.monotonic()
    outcomes = list(ray_fan_out(3, num_cpus=1, race=race, notify=lines.append)(slow_at_first, jobs))
    assert sorted(o.item.number for o in outcomes) == list(range(6))
    assert time.monotonic() - began < 25
    assert attempts(jobs[0]) == 1 + race
    assert any(line.startswith("slow: Job 0 takes") for line in lines)
    assert ("slow: a second copy of Job 0 is started" in lines) == race


def wait_here(folder: str) -> str:
    """Waits for a word on the first node that runs it."""
    pids = Path(folder, "pids")
    first = not pids.exists()
    pids.touch()
    time.sleep(60 if first else 0)
    return "done"


def joined(address: str) -> subprocess.Popen[bytes]:
    """A node of 5 CPUs that joins the cluster, which has none that large."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--address", address, "--num-cpus", "5", "--block"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def raylet_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    found = [child for child in psutil.Process(process.pid).children() if child.name() == "raylet"]
    assert len(found) == 1
    return found[0]


@pytest.mark.skipif(os.environ.get("MEDFUNCTA_CHAOS") != "full", reason="25 s, for starting two nodes")
def test_a_lost_node_is_not_the_tasks_fault(ray_cluster: str, tmp_path: Path) -> None:
    nodes = [joined(ray_cluster)]
    try:
        outcomes = ray_fan_out(1, num_cpus=5, max_attempts=1)(wait_here, [str(tmp_path)])
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(list, outcomes)
            while not (tmp_path / "pids").exists():
                time.sleep(0.1)
            raylet_of(nodes[0]).kill()
            nodes.append(joined(ray_cluster))
            assert [o.result for o in ended.result(60) if isinstance(o, Done)] == ["done"]
    finally:
        for node in nodes:
            node.terminate()
            node.wait(30)


def process_of(_: int) -> int:
    return os.getpid()


def nothing(_: int) -> bytes:
    return bytes(1000)


def test_processes_stay_warm() -> None:
    outcomes = list(ray_fan_out(1, num_cpus=1)(process_of, range(6)))
    # Ray keeps a process per CPU idle, and a task may get either; one that ended after its task would be six.
    assert len({o.result for o in outcomes if isinstance(o, Done)}) <= 2


def test_the_drivers_memory_stays_flat() -> None:
    fan_out, driver = ray_fan_out(4, num_cpus=1), psutil.Process()
    assert sum(1 for _ in fan_out(nothing, range(300))) == 300
    before = driver.memory_info().rss
    assert sum(1 for _ in fan_out(nothing, range(2000))) == 2000
    assert driver.memory_info().rss - before < 20e6


DRIVER = """
import ray
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fanout import ray_fan_out, start_ray
run = RunFile.model_validate({"name": "a", "storage": "/tmp/a", "data": {"source": "x", "shape": [4]}})
start_ray(run)
start_ray(run)
def talk(n):
    print("a worker talks")
    return n
assert [o.result for o in ray_fan_out(1, num_cpus=1)(talk, [7])] == [7]
print(ray.get_runtime_context().gcs_address)
"""


def test_a_driver_joins_the_cluster_and_keeps_stdout_to_itself(ray_cluster: str) -> None:
    driver = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True, timeout=120, check=True)
    assert driver.stdout == f"{ray_cluster}\n"


def test_tasks_that_no_machine_can_run_are_refused_or_announced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_room(num_cpus=1, num_gpus=0)
    assert capsys.readouterr().err == ""
    require_room(num_cpus=1, num_gpus=64)
    assert "64 GPUs" in capsys.readouterr().err
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(RunFileError, match="64 GPUs"):
        require_room(num_cpus=1, num_gpus=64)


@pytest.mark.parametrize("needs", [{"num_cpus": 1, "num_gpus": 1}, {"num_cpus": 10_000}])
def test_tasks_that_no_node_has_room_for_are_given_up_at_the_limit(needs: dict[str, float], tmp_path: Path) -> None:
    began = time.monotonic()

    def reached() -> LimitReachedError | None:
        return LimitReachedError("the run has used its hours") if time.monotonic() - began > 3 else None

    fan_out = limited(ray_fan_out(2, workers=1, **needs), reached)  # type: ignore[arg-type]
    with pytest.raises(LimitReachedError, match="used its hours"):
        list(fan_out(work, [Job(number, str(tmp_path)) for number in range(3)]))
    assert 3 < time.monotonic() - began < 60
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_runs_at_the_limit_is_finished(tmp_path: Path) -> None:
    fan_out = limited(
        ray_fan_out(1, num_cpus=1), lambda: LimitReachedError("used") if any(tmp_path.iterdir()) else None
    )
    outcomes = fan_out(work, [Job(number, str(tmp_path), seconds=4.0) for number in range(3)])
    assert next(outcomes).item.number == 0
    with pytest.raises(LimitReachedError):
        next(outcomes)
