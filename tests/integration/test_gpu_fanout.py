"""Tasks with GPUs on a real cluster whose GPUs are only numbers. Ray assigns them as it would real ones, and CUDA would
use what CUDA_VISIBLE_DEVICES said when a process first looked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import ray

from medfuncta_dist import fanout
from medfuncta_dist.errors import IntegrityError, WorkerDiedError
from medfuncta_dist.fanout import ray_fan_out
from medfuncta_dist.task_map import Done, Failed

GPUS = 4
FIRST = "TEST_FIRST_VISIBLE_DEVICES"


def node_with_gpus(address: str, gpus: int) -> subprocess.Popen[bytes]:
    """A node of the cluster, which has no other GPUs. Its processes are its children, so that it can be lost whole."""
    seen = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    size = ["--num-cpus", "8", "--num-gpus", str(gpus), "--object-store-memory", "80000000"]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--address", address, *size, "--block"]
    node = subprocess.Popen(command, env=seen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: ray.cluster_resources().get("GPU", 0) == gpus, 60)
    return node


def until(there: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end(*nodes: subprocess.Popen[bytes]) -> None:
    for node in nodes:
        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        node.terminate()  # the cluster learns of it at once, unlike of a killed one
        _, left = psutil.wait_procs(processes, 30)
        for process in left:
            process.kill()
        node.wait()
    until(lambda: "GPU" not in ray.cluster_resources(), 60)


@pytest.fixture(scope="module")
def gpus(ray_cluster: str) -> Iterator[int]:
    node = node_with_gpus(ray_cluster, GPUS)
    yield GPUS
    end(node)


@dataclass(frozen=True)
class Job:
    """What a task does, and where it leaves a mark each time."""

    number: int
    folder: str
    seconds: float = 0.02
    deaths: int = 0
    hangs: bool = False
    exits: bool = False

    @property
    def name(self) -> str:
        return str(self.number)

    @property
    def attempts(self) -> int:
        return len(list(Path(self.folder).glob(f"{self.number}-*")))


class Use(NamedTuple):
    pid: int
    assigned: str
    """By Ray, for this task."""
    used: str
    """What CUDA_VISIBLE_DEVICES said at the process's first task."""


def use(job: Job) -> Use:
    Path(job.folder, f"{job.number}-{time.monotonic_ns()}-{os.getpid()}").touch()
    used = os.environ.setdefault(FIRST, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if job.attempts <= job.deaths:
        sys.exit() if job.exits else os.kill(os.getpid(), signal.SIGKILL)  # one that exits is not restarted by Ray
    time.sleep(60 if job.hangs and job.attempts == 1 else job.seconds)
    return Use(os.getpid(), ",".join(str(gpu) for gpu in ray.get_gpu_ids()), used)


def jobs(folder: Path, count: int, **options: Any) -> list[Job]:
    """Of uneven length, so that processes become free in another order than they began."""
    folder.mkdir(exist_ok=True)
    return [Job(n, str(folder), 0.02 + 0.06 * (n % 3), **options) for n in range(count)]


def uses(outcomes: Any) -> list[Use]:
    """Of all outcomes, none of which failed or used another GPU than the one it was assigned."""
    found = [outcome.result for outcome in outcomes if isinstance(outcome, Done)]
    wrong = [use for use in found if use.used != use.assigned]
    assert not wrong, f"{len(wrong)} of {len(found)} tasks were in a process bound to another GPU"
    return found


def gone(found: list[Use]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in {use.pid for use in found})


def test_a_task_uses_the_gpu_that_it_is_assigned_and_no_process_stays(gpus: int, tmp_path: Path) -> None:
    on_cpus = [o.result for o in ray_fan_out(4, num_cpus=1)(use, jobs(tmp_path / "cpu", 8)) if isinstance(o, Done)]
    processes = [{use.pid for use in on_cpus}]
    for workers, each in ((3, 0.5), (6, 2)):  # then more workers than there is room for, which must hold no task
        fan_out = ray_fan_out(2 * workers, num_cpus=1, num_gpus=each, workers=workers)
        found = uses(fan_out(use, jobs(tmp_path / str(each), 24)))
        assert len(found) == 24
        assert all(len(use.assigned.split(",")) == max(each, 1) for use in found)
        processes.append({use.pid for use in found})
        assert len(processes[-1]) <= min(workers, gpus / each)
        until(lambda found=found: gone(found), 20)
    assert sum(len(pids) for pids in processes) == len(set.union(*processes))
    until(lambda: ray.available_resources().get("GPU") == gpus, 20)


def test_so_it_does_when_workers_die_and_only_the_task_that_ran_is_tried_again(gpus: int, tmp_path: Path) -> None:
    todo = [*jobs(tmp_path, 20), Job(20, str(tmp_path), deaths=1), Job(21, str(tmp_path), deaths=1, exits=True)]
    todo = todo[-2:] + todo[:-2]
    found = uses(ray_fan_out(4, num_cpus=1, num_gpus=1, workers=2, max_attempts=3)(use, todo))
    assert len(found) == 22
    assert [job.attempts for job in todo] == [2, 2, *[1] * 20]


@pytest.mark.slow
def test_a_task_that_kills_every_worker_fails_and_those_that_waited_behind_it_do_not(gpus: int, tmp_path: Path) -> None:
    todo = [Job(0, str(tmp_path), deaths=99), *(Job(n, str(tmp_path)) for n in range(1, 6))]
    outcomes = {o.item.number: o for o in ray_fan_out(2, num_cpus=1, num_gpus=1, workers=1, max_attempts=2)(use, todo)}
    failed = outcomes.pop(0)
    assert isinstance(failed, Failed)
    assert failed.attempts == 2 == todo[0].attempts
    assert isinstance(failed.error, WorkerDiedError)
    assert len(uses(outcomes.values())) == 5


@pytest.mark.slow
def test_a_fraction_shares_a_gpu(gpus: int, tmp_path: Path) -> None:
    found = uses(ray_fan_out(6, num_cpus=0.5, num_gpus=0.5, workers=3)(use, jobs(tmp_path, 48)))
    assert len(found) == 48
    processes = {use.pid: use.used for use in found}
    assert (len(processes), len(set(processes.values()))) == (3, 2)


@pytest.mark.slow
def test_when_the_iterator_is_closed_its_processes_end(gpus: int, tmp_path: Path) -> None:
    todo = [*jobs(tmp_path, 6), Job(6, str(tmp_path), hangs=True)]
    outcomes = ray_fan_out(2, num_cpus=1, num_gpus=1, workers=2)(use, todo)
    found = uses(islice(outcomes, 6))
    assert list(ray_fan_out(2, num_cpus=1, num_gpus=1)(use, [])) == []
    outcomes.close()  # type: ignore[attr-defined]
    until(lambda: gone(found) and ray.available_resources().get("GPU") == gpus, 20)


@pytest.mark.slow
def test_a_task_that_hangs_is_raced_and_its_process_killed(
    gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "STRAGGLER_MIN_S", 1.0)
    todo = [Job(0, str(tmp_path), hangs=True), *jobs(tmp_path, 8)[1:]]
    lines: list[str] = []
    began = time.monotonic()
    fan_out = ray_fan_out(6, num_cpus=1, num_gpus=1, workers=3, race=True, notify=lines.append)
    outcomes = []
    for outcome in fan_out(use, todo):
        outcomes.append(outcome)
        if outcome.item.number == 0:
            hung = min(tmp_path.glob("0-*"), key=lambda mark: int(mark.name.split("-")[1])).name.split("-")[2]
            until(lambda hung=hung: not psutil.pid_exists(int(hung)), 20)
    assert len(uses(outcomes)) == 8
    assert time.monotonic() - began < 30
    assert todo[0].attempts == 2
    assert "slow: a second copy of Job 0 is started" in lines


def refuse(item: int) -> None:
    if item == 0:
        raise IntegrityError("bytes are wrong", where="shard 7", do="look")
    raise ValueError("plain")


def test_errors_come_back_as_themselves(gpus: int) -> None:
    outcomes = {o.item: o for o in ray_fan_out(2, num_cpus=1, num_gpus=1, workers=1)(refuse, [0, 1])}
    assert [type(o.error) for o in (outcomes[0], outcomes[1]) if isinstance(o, Failed)] == [IntegrityError, ValueError]


class NotThere:
    """Cannot be unpickled, as a function of a package that a node does not have."""

    def __reduce__(self) -> Any:
        return __import__, ("a_package_that_no_node_has",)

    def __call__(self, item: int) -> int:
        return item


def test_workers_that_cannot_load_the_task_end_the_stage(gpus: int) -> None:
    with pytest.raises(WorkerDiedError, match="cannot be loaded"):
        list(ray_fan_out(2, num_cpus=1, num_gpus=1, workers=1)(NotThere(), [1, 2]))


@pytest.mark.skipif(os.environ.get("MEDFUNCTA_CHAOS") != "full", reason="60 s, for starting two nodes and losing one")
def test_a_lost_node_is_not_the_tasks_fault(ray_cluster: str, tmp_path: Path) -> None:
    nodes = [node_with_gpus(ray_cluster, 1)]
    try:
        todo = [Job(0, str(tmp_path), hangs=True), *jobs(tmp_path, 4)[1:]]
        outcomes = ray_fan_out(2, num_cpus=1, num_gpus=1, workers=1, max_attempts=1)(use, todo)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(list, outcomes)
            until(lambda: todo[0].attempts == 1, 60)
            (raylet,) = [child for child in psutil.Process(nodes[0].pid).children() if child.name() == "raylet"]
            raylet.kill()
            until(lambda: "GPU" not in ray.cluster_resources(), 60)
            nodes.append(node_with_gpus(ray_cluster, 1))
            assert len(uses(ended.result(90))) == 4
            assert todo[0].attempts == 2
    finally:
        end(*nodes)
