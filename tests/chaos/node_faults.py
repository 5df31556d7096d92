"""A driver on a cluster of its own, to which one fault happens. Prints what it saw as one line of JSON.

python -m tests.chaos.node_faults lose RUN.json SNAPSHOT
python -m tests.chaos.node_faults drain RUN.json SNAPSHOT SECONDS
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.training.trainer import train
from tests.chaos.cluster import nodes_of


class Saw:
    """Listens to training; ``do`` happens once, in a thread of its own, at the first message of ``kind``."""

    def __init__(self, kind: str, do: Callable[[], object]) -> None:
        self.kinds: list[tuple[str, dict[str, Any]]] = []
        self._kind, self._do = kind, do

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        if kind != "step":
            self.kinds.append((kind, fields))
        if kind == self._kind:
            self._kind = ""
            threading.Thread(target=self._do, daemon=True).start()


def drain(run: RunFile, snapshot: str, seconds: float) -> dict[str, Any]:
    """Two of three nodes are used; one of them is drained with so many seconds' notice."""
    with nodes_of(1, 1, 1) as (nodes, started):
        gone: list[float] = []
        saw = Saw("step", lambda: gone.append(nodes.drain(_last_used(saw, started), seconds)))
        summary = train(run, snapshot, saw)
        return {"summary": asdict(summary), "saw": saw.kinds, "gone": gone}


def lose(run: RunFile, snapshot: str) -> dict[str, Any]:
    """One of two nodes goes without a word, in the second of two equal runs; not that of rank 0, who logs."""
    with nodes_of(2, 2) as (nodes, started):
        train(run.model_copy(update={"name": f"{run.name}-whole"}), snapshot)
        saw = Saw("checkpoint", lambda: nodes.lose(_last_used(saw, started)))
        summary = train(run, snapshot, saw)
        return {"summary": asdict(summary), "saw": saw.kinds}


def _last_used(saw: Saw, started: Sequence[Any]) -> Any:
    """The node of the last rank."""
    used = next(fields["nodes"] for kind, fields in saw.kinds if kind == "started")
    return next(node for node in started if node.node_id[:12] == used[-1])


if __name__ == "__main__":
    fault, path, snapshot, *more = sys.argv[1:]
    run = RunFile.model_validate_json(Path(path).read_text())
    found = lose(run, snapshot) if fault == "lose" else drain(run, snapshot, float(more[0]))
    print(json.dumps(found, default=str))
