"""The file of results: one JSON object per line, appended as each result ends, so that nothing measured is lost."""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, rounded

LAST_LINES = 4
"""Of a traceback or of a process's output: enough to see what failed, and where."""
LONGEST = 600
"""Characters of such an excerpt."""
LONG_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+([\w.+-]+/[\w.+-]+)")


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line at once: two processes write to the file, and either may be killed."""
    text = json.dumps(rounded(dict(line), 6), ensure_ascii=False) + "\n"
    with path.open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines. A line that a killed process left unfinished is passed over."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def last_lines_of(error: BaseException) -> str:
    """What was raised, and the last lines of where."""
    return excerpt("".join(traceback.format_exception(error)))


def excerpt(text: str) -> str:
    """The last lines, with paths cut to their end: where a machine keeps its files helps nobody."""
    lines = [line.strip() for line in text.replace(f"{ROOT}/", "").splitlines() if line.strip(" ^~")]
    return LONG_PATH.sub(r"\1", " | ".join(lines[-LAST_LINES:]))[-LONGEST:]
