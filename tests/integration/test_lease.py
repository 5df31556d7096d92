"""One driver per run, with real processes, on real stores of each kind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from medfuncta_dist.storage.commit_record import read_records
from medfuncta_dist.storage.object_store import ObjectStore
from tests.integration.lease_driver import NAME, race
from tests.stores import KINDS, roots

RACERS = 8
TTL, RACE_TTL = 2.0, 6.0
FOREVER = 10_000


@pytest.fixture(scope="module", params=KINDS)
def root(request, tmp_path_factory) -> Iterator[Callable[[], str]]:
    with roots(request.param, tmp_path_factory.mktemp(request.param)) as root:
        yield root


class Driver:
    """A driver in a process of its own."""

    def __init__(self, root: str, commits: int = FOREVER) -> None:
        arguments = [sys.executable, "-m", "tests.integration.lease_driver", root, str(TTL), str(commits)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def until(self, word: str) -> str:
        """The next line that begins with ``word``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"no {word!r} before the end")

    def outcome(self) -> tuple[str, str]:
        """The last word, and all of stderr."""
        out, err = self.process.communicate(timeout=60)
        return out.split()[-1], err


def last_commits(root: str) -> dict[int, int]:
    """Commits by the token of their writers."""
    found = read_records(ObjectStore(root), f"runs/{NAME}/commits", "commit")
    return Counter(record.generation for _, record in found)


def surroundings() -> dict[str, str]:
    """The way to the store: children of a fork server do not have their parent's environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def test_of_eight_drivers_at_once_one_wins(root):
    """All others are refused, and the winner is not disturbed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.lease_driver", "medfuncta_dist.storage.s3.s3_objects"])
    place, outcomes, start, over = root(), context.Queue(), context.Barrier(RACERS), context.Event()
    arguments = (place, RACE_TTL, surroundings(), start, over, outcomes)
    racers = [context.Process(target=race, args=arguments) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    losers = [outcomes.get(timeout=60) for _ in range(RACERS - 1)]
    over.set()
    assert Counter([*losers, outcomes.get(timeout=60)]) == {"finished": 1, "RunHeldError": RACERS - 1}
    for racer in racers:
        racer.join()
    assert len(last_commits(place)) == 1


def test_a_driver_that_was_stopped_past_its_lease_commits_nothing_that_counts(root):
    place = root()
    with Driver(place) as old:
        old_token = int(old.until("held").split()[1])
        old.until("committed 3")
        os.kill(old.process.pid, signal.SIGSTOP)
        before = last_commits(place)[old_token]
        with Driver(place) as new:
            new_token = int(new.until("held").split()[1])
            new.until("committed 3")
            os.kill(old.process.pid, signal.SIGCONT)
            word, said = old.outcome()
            assert word == "LeaseLostError"
            assert f"process {new.process.pid}" in said
            assert f"token {new_token}" in said
            new.until("committed 40")  # it goes on
            assert new.process.poll() is None
    commits = last_commits(place)
    # At most the one that had passed the fence when the process was stopped; readers take the highest generation.
    assert commits[old_token] <= before + 1
    assert max(commits) == new_token > old_token


def test_a_killed_driver_is_replaced_at_once_on_its_machine(root):
    place = root()
    with Driver(place) as first:
        first.until("committed 1")
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    began = time.monotonic()
    with Driver(place, commits=2) as second:
        second.until("held")
        took = time.monotonic() - began
        word, said = second.outcome()
    assert word == "finished"
    assert "taking over" in said
    assert "waiting" not in said
    assert took < 30
