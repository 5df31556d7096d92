"""docs/reliability.md's table, from what the chaos tests left in a file of JSON lines.

python -m tests.chaos.table RESULTS.jsonl
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS
from tests.chaos.page import PAGE, put_between


def main() -> None:
    """Put the table between its marks."""
    results = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    put_between("table", f"{table(results)}\n{where(results)}")


def table(results: list[dict[str, Any]]) -> str:
    """One row a fault, in the order of faults.py."""
    by_fault: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_fault[result["fault"]].append(result)
    lines = ["| fault | criterion | held | seen |", "|---|---|---|---|"]
    for name, fault in FAULTS.items():
        found = by_fault[name]
        passed = sum(result["outcome"] == "passed" for result in found)
        held = f"{passed} of {len(found)} tests" if found else "not run"
        seen = "; ".join(dict.fromkeys(words for result in found for words in result["measured"]))
        lines.append(f"| {fault.what} | {fault.criterion} | {held} | {seen} |")
    return "\n".join(lines) + "\n"


def where(results: list[dict[str, Any]]) -> str:
    """When, on what, with which code."""
    git = ["git", "-C", str(PAGE.parent), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    minutes = sum(result["seconds"] for result in results) / 60
    return (
        f"`make chaos` at commit `{commit}`, {datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes of tests, on "
        f"{platform.machine()}, Python {platform.python_version()}, two cores without a GPU.\n"
    )


if __name__ == "__main__":
    main()
