"""A driver on a cluster of its own, to which one fault happens. Prints what it saw as one line of JSON.

python -m tests.integration.node_faults FAULT RUN.json SNAPSHOT
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.training.trainer import train
from tests.chaos.cluster import nodes_of

DEADLINE_S = 12.0


class Saw:
    """Listens to training; ``do`` happens once, in a thread of its own, when outer step ``step`` is behind."""

    def __init__(self, step: int, do: Any) -> None:
        self.kinds: list[tuple[str, dict[str, Any]]] = []
        self._step, self._do = step, do

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        if kind != "step":
            self.kinds.append((kind, fields))
        elif self._do is not None and fields["step"] >= self._step:
            threading.Thread(target=self._do, daemon=True).start()
            self._do = None


def drain(run: RunFile, snapshot: str) -> dict[str, Any]:
    """Two of three nodes are used; one of them is drained with twelve seconds' notice."""
    with nodes_of(1, 1, 1) as (nodes, started):
        gone: list[float] = []
        saw = Saw(20, lambda: gone.append(nodes.drain(_last_used(saw, started), DEADLINE_S)))
        summary = train(run, snapshot, saw)
        return {"summary": asdict(summary), "saw": saw.kinds, "gone": gone}


def lose(run: RunFile, snapshot: str) -> dict[str, Any]:
    """One of two nodes goes without a word; not that of rank 0, which could not tell of its last steps."""
    with nodes_of(2, 2) as (nodes, started):
        saw = Saw(60, lambda: nodes.lose(_last_used(saw, started)))
        summary = train(run, snapshot, saw)
        return {"summary": asdict(summary), "saw": saw.kinds}


def _last_used(saw: Saw, started: Sequence[Any]) -> Any:
    """The node of the last rank."""
    used = next(fields["nodes"] for kind, fields in saw.kinds if kind == "started")
    return next(node for node in started if node.node_id[:12] == used[-1])


if __name__ == "__main__":
    fault, run, snapshot = sys.argv[1:]
    found = {"drain": drain, "lose": lose}[fault](RunFile.model_validate_json(Path(run).read_text()), snapshot)
    print(json.dumps(found, default=str))
