"""What an offline run of Weights & Biases holds: its transaction log, read by W&B's own inspector."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Records = Sequence[dict[str, Any]]
OWN_NUMBERS = ("_runtime", "_step", "_timestamp")


def records(folder: Path) -> Records:
    """The records of the offline run in ``folder``, which was closed: a process of W&B's own may still be writing."""
    deadline = time.monotonic() + 60
    while True:
        found = _inspected(folder)
        if any(record["type"] == "exit" for record in found):
            return found
        assert time.monotonic() < deadline, f"{folder} never ended"
        time.sleep(0.1)


def identity(found: Records) -> tuple[str, str, str]:
    """Id, name and job type."""
    [run] = (record["run"] for record in found if record["type"] == "run")
    return run["run_id"], run["display_name"], run["job_type"]


def history(found: Records) -> list[tuple[int, dict[str, float]]]:
    """Step and numbers, in the order in which they are uploaded."""
    items = [record["history"]["item"] for record in found if record["type"] == "history"]
    return [(item["_step"], {name: item[name] for name in item if name not in OWN_NUMBERS}) for item in items]


def artifacts(found: Records) -> list[dict[str, Any]]:
    """Type, name, digest, aliases, metadata, whether the run uses it, references by name, and paths of files."""
    return [_artifact(record["artifact"]) for record in found if record["type"] == "artifact"]


def _artifact(logged: dict[str, Any]) -> dict[str, Any]:
    contents = logged["manifest"]["contents"]
    return {
        **{name: logged[name] for name in ("type", "name", "digest")},
        "aliases": sorted(logged["aliases"]),
        "metadata": json.loads(logged["metadata"]),
        "use_after_commit": logged.get("use_after_commit", False),
        "references": {entry["path"]: entry["ref"] for entry in contents if "ref" in entry},
        "files": {entry["path"]: entry["local_path"] for entry in contents if "ref" not in entry},
    }


def _inspected(folder: Path) -> Records:
    from wandb.util import get_core_path

    log = next(folder.glob("*.wandb"), None)
    if log is None:  # W&B's process has not made it yet
        return []
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(log)]
    done = subprocess.run([*command, str(folder.parent)], capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]
