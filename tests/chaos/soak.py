"""Twenty minutes of training on four workers with a random fault every 30 to 90 seconds; then the same run in peace.

python -m tests.chaos.soak [--minutes 20] [--seed 0]

Prints one line of JSON, and puts it in words between the marks of docs/reliability.md. Ends with 1 where the two runs
differ in a single bit, or in a loss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import history, read_events
from medfuncta_dist.telemetry.goodput import goodput
from tests.chaos.cluster import Nodes, nodes_of
from tests.chaos.faulty_s3 import Faults, FaultyS3
from tests.chaos.page import put_between
from tests.chaos.runs import Driver, committed, eventually, stage_run, state_of, training_workers
from tests.integration.training_runs import packed

BETWEEN_S = (30.0, 90.0)
WORKERS = 4
BURST_S = 20.0
"""How long storage stays bad."""
NOTICE_S = 30.0
"""What a drained node is given."""
RETURN_S = 5.0
"""After which a lost node is replaced."""
TARGET = 0.8


class Soak:
    """One run on a cluster of nodes of two workers each, and what is done to it."""

    def __init__(self, run: RunFile, folder: Path, nodes: Nodes, started: list[Any], proxy: FaultyS3) -> None:
        self._run, self._folder, self._nodes, self._started, self._proxy = run, folder, nodes, started, proxy
        self.did: Counter[str] = Counter()
        self.driver = Driver(run, folder)
        self._well_at = 0.0

    def go(self, seconds: float, chance: random.Random) -> None:
        """Let it train for so long, and trouble it."""
        kinds = ["worker", "stop", "node", "drain", "driver", "errors", "hangs", "cuts", "slow"]
        end, due = time.monotonic() + seconds, time.monotonic() + chance.uniform(*BETWEEN_S)
        while (now := time.monotonic()) < end:
            self.mind()
            if now >= due and (now < end - BETWEEN_S[0]) and self._strike(chance.choice(kinds), chance):
                due = now + chance.uniform(*BETWEEN_S)
            time.sleep(0.2)

    def mind(self) -> None:
        """What an operator's machinery does: start an ended driver again, end a storage fault."""
        if self._well_at and time.monotonic() > self._well_at:
            self._proxy.faults, self._well_at = Faults(), 0.0
        if self.driver.process.poll() is not None:
            self.did["driver started again"] += 1
            self.driver.ends()
            self.driver = Driver(self._run, self._folder)

    def _strike(self, kind: str, chance: random.Random) -> bool:
        """Whether there was something to strike."""
        workers = training_workers(psutil.Process())
        if len(workers) < WORKERS:
            return False
        victim, node = chance.choice(workers), chance.choice(self._started)
        match kind:
            case "worker":
                victim.kill()
            case "stop":
                victim.suspend()
            case "driver":
                self.driver.kill()
            case "node" | "drain":
                self._take(node, kind)
            case "errors":
                self._trouble(Faults(error_share=0.2))
            case "hangs":
                self._trouble(Faults(hang_share=0.05))
            case "cuts":
                self._trouble(Faults(cut_share=0.2))
            case "slow":
                self._trouble(Faults(slow_share=0.5, bytes_per_s=20_000))
        self.did[kind] += 1
        say(f"{kind} ({sum(self.did.values())})")
        return True

    def _trouble(self, faults: Faults) -> None:
        self._proxy.faults, self._well_at = faults, time.monotonic() + BURST_S

    def _take(self, node: Any, kind: str) -> None:
        self._started.remove(node)
        if kind == "drain":
            self._nodes.drain(node, NOTICE_S)
        else:
            self._nodes.lose(node)
            time.sleep(RETURN_S)
        self._started.append(self._nodes.add(2))

    def stop(self, store: ObjectStore) -> int:
        """In peace again: let it save once more, then ask it to stop. The step of its last checkpoint."""
        self._proxy.faults = Faults()
        before = max(committed(store, self._run.name), default=0)
        eventually(lambda: self._saved_after(store, before), "checkpoint", 600)
        self.driver.process.send_signal(signal.SIGTERM)
        with suppress(json.JSONDecodeError):
            say(f"stopped: exit code {self.driver.ends(120)[0]}")
        return max(committed(store, self._run.name))

    def _saved_after(self, store: ObjectStore, step: int) -> bool:
        self.mind()
        return max(committed(store, self._run.name), default=0) > step


def soak(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """The figures."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedS3(folder / "s3"))
        server.create_bucket("soak")
        os.environ.update(server.environment | {"OMP_NUM_THREADS": "1"})
        snapshot, store = packed("s3://soak/run", folder), ObjectStore("s3://soak/run")
        proxy = stack.enter_context(FaultyS3(server.endpoint, seed))
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint  # for drivers and nodes; the store here goes straight
        nodes, started = stack.enter_context(nodes_of(2, 2, 2))
        troubled = Soak(_run("soak", snapshot), folder, nodes, started, proxy)
        stack.callback(lambda: troubled.driver.__exit__())
        troubled.go(60 * minutes, random.Random(seed))
        last = troubled.stop(store)
        say(f"step {last}; now the same {last} steps in peace")
        calm = stack.enter_context(Driver(_run("calm", snapshot, steps=last), folder))
        code, answer = calm.ends(7200)
        assert code == 0, calm.said()[-2000:]
        return _figures(store, last, troubled.did, minutes, answer["train"]["goodput"]["s_per_step"])


def _run(name: str, snapshot: str, steps: int = 10_000_000) -> RunFile:
    limits = {"max_failures": 10_000, "hang_timeout": 10.0, "checkpoint_minutes": 0.1, "keep_checkpoints": 3}
    run = stage_run("s3://soak/run", name, snapshot, workers=WORKERS, lease_s=30.0, steps=steps, batch=8, **limits)
    return run.model_copy(update={"field": run.field.model_copy(update={"hidden": 64})})


def _figures(store: ObjectStore, last: int, did: Counter[str], minutes: float, calm_pace: float) -> dict[str, Any]:
    lines = list(read_events(store, "soak"))
    got = goodput(lines)
    here, there = (dict(history(store, name)) for name in ("soak", "calm"))
    return {
        "minutes": minutes,
        "steps": last,
        "faults": dict(did),
        "goodput": got.goodput,
        "target": TARGET,
        "s_per_step": got.s_per_step,
        "s_per_step_in_peace": calm_pace,
        "recoveries": got.recoveries,
        "recovery_median_s": got.recovery_median_s,
        "recovery_p95_s": got.recovery_p95_s,
        "redone_steps": got.redone_steps,
        "wall_s": got.wall_s,
        "lost_s": got.lost,
        "checkpoints": got.checkpoints,
        "state_equal": state_of(store, "soak", last) == state_of(store, "calm", last),
        "losses_equal": [here[step] for step in range(1, last + 1)] == [there[step] for step in range(1, last + 1)],
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),
    }


def in_words(figures: dict[str, Any]) -> str:
    """A paragraph."""
    faults = ", ".join(f"{name} {count}" for name, count in sorted(figures["faults"].items()))
    lost = ", ".join(f"{name} {seconds:.0f}" for name, seconds in figures["lost_s"].items())
    same = "bit-equal" if figures["state_equal"] and figures["losses_equal"] else "NOT EQUAL"
    return (
        f"`make soak`, {figures['minutes']:g} minutes, four workers on {figures['cores']} cores (load "
        f"{figures['load']}): {figures['steps']} steps, {figures['recoveries']} recoveries "
        f"(median {figures['recovery_median_s'] or 0:.0f} s, 95th percentile {figures['recovery_p95_s'] or 0:.0f} s), "
        f"{figures['redone_steps']} steps redone, {figures['checkpoints']} checkpoints. Parameters, moments and every "
        f"loss, against the same steps in peace: {same}. Goodput {figures['goodput']:.0%} (target {TARGET:.0%}); of "
        f"{figures['wall_s']:.0f} s lost: {lost}. A step took {1000 * figures['s_per_step']:.0f} ms in the median. "
        f"Faults: {faults}.\n"
    )


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """One soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medfuncta-soak-", ignore_cleanup_errors=True) as folder:
        figures = soak(chosen.minutes, chosen.seed, Path(folder))
    print(json.dumps(figures), flush=True)
    put_between("soak", in_words(figures))
    sys.exit(not (figures["state_equal"] and figures["losses_equal"]))


if __name__ == "__main__":
    main()
