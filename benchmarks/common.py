"""What all benchmarks share: how runs are compared, and what is recorded about the machine.

A benchmark is one script for one claim. It prints one JSON object, and writes it with a Markdown table to
``benchmarks/results/<name>-<machine>``. ``--short`` takes seconds, shows that the script works, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Before NumPy or torch start their threads; a benchmark that wants more says so.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("medfuncta-dist", "torch", "numpy", "ray", "webdataset", "s3fs", "pyarrow")


@dataclass(frozen=True)
class Claim:
    """One number that was promised. ``at_least``: larger is better."""

    what: str
    measured: float
    target: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def as_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"met": self.met}


def arguments(description: str) -> argparse.Namespace:
    """The command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    return parser.parse_args()


class Kept:
    """Results by name, each appended to a file as soon as there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self.results: dict[str, dict[str, Any]] = {}
        for line in lines:
            self.results.update(json.loads(line))

    def once(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do it unless it is done."""
        if name in self.results:
            return
        self.results[name] = rounded(work(), 6)
        line = json.dumps({name: self.results[name]}, ensure_ascii=False)
        print(line, file=sys.stderr, flush=True)
        if self._path:
            with self._path.open("a") as file:
                file.write(line + "\n")


def device() -> torch.device:
    """Where a benchmark of the compute core computes: on the GPU when there is one."""
    import torch  # only here: most benchmarks need none

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given: it works behind the calls. Before each reading of a clock."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def side_by_side(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Numbers of each variant, taken in turns (A B C A B C ...): what else the machine does then hits all alike."""
    numbers: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            numbers[name].append(run())
    return numbers


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios, each of two neighbours in time."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def report(
    name: str,
    short: bool,
    began: float,
    results: Mapping[str, Any],
    claims: Sequence[Claim],
    table: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> None:
    """Print the JSON; where the run was whole, keep it with a Markdown table. ``began``: of ``time.perf_counter``."""
    text, record = _printed(name, short, began, results, claims, notes)
    if not short:
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"{name}-{machine_name()}"
        file.with_suffix(".json").write_text(text + "\n")
        file.with_suffix(".md").write_text(markdown(rounded(record), rounded(list(table))))


def report_page(
    name: str,
    short: bool,
    began: float,
    results: Mapping[str, Any],
    claims: Sequence[Claim],
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    notes: Sequence[str] = (),
) -> None:
    """As ``report``, of what is the same on every machine: a page of several tables, called after no machine."""
    text, record = _printed(name, short, began, results, claims, notes)
    if not short:
        tables = [f"## {title}\n\n{rows_of(rounded(list(rows)))}" for title, rows in sections.items()]
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")
        (RESULTS / f"{name}.md").write_text("\n".join([markdown(rounded(record), []), *(t + "\n" for t in tables)]))


def _printed(
    name: str, short: bool, began: float, results: Mapping[str, Any], claims: Sequence[Claim], notes: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """The record of a run, which is printed as JSON; that text, and the record."""
    record = {
        "benchmark": name,
        "short": short,
        "seconds": round(time.perf_counter() - began, 1),
        **where(),
        "claims": [claim.as_json() for claim in claims],
        "results": dict(results),
        "notes": list(notes),
    }
    text = json.dumps(rounded(record), indent=2, ensure_ascii=False)
    print(text)
    return text, record


def where() -> dict[str, Any]:
    """Machine, versions, commit, command and threads."""
    return {
        "machine": {
            "name": machine_name(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
            "gpu": gpu(),
            "system": platform.platform(terse=True),
            "load_at_end": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **versions()},
        "commit": commit(),
        "command": command(),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
    }


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Of the libraries that are installed: some benchmarks run without most of them."""
    found = {}
    for library in libraries:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def command() -> str:
    """What was run. Of paths the last part: where a machine keeps its files helps nobody."""
    words = [os.path.basename(word) or word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])


def machine_name() -> str:
    """Short, for file names: ``cpu-2core``, ``h100-80gb-hbm3``."""
    found = gpu()
    return f"cpu-{os.cpu_count()}core" if found is None else file_part(found)


def file_part(name: str) -> str:
    """A device's name as part of a file's name."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def gpu() -> str | None:
    """The first CUDA device's name; torch is asked only where the benchmark has imported it."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0).removeprefix("NVIDIA ") if torch and torch.cuda.is_available() else None


def processor() -> str:
    """The processor's own name, where Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*: (.*)", text)
    return found[1] if found else platform.machine()


def commit() -> str:
    """The commit that was measured; ``+`` when the package's files differ from it."""

    def git(*words: str) -> str:
        with suppress(OSError):  # a machine without git
            return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()
        return ""

    changed = git("status", "--porcelain", "--", "medfuncta_dist", "benchmarks/*.py")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


def rounded(value: Any, digits: int = 4) -> Any:
    """Floats to a few digits: more of them would be noise."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list | tuple) else value


def markdown(record: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> str:
    """The results page: claims, the table, where it ran."""
    machine = record["machine"]
    claims = [
        {
            "claim": c["what"],
            "target": f"{'≥' if c['at_least'] else '≤'} {c['target']:g}",
            "measured": f"{c['measured']:g}",
            "met": "yes" if c["met"] else "**no**",
        }
        for c in record["claims"]
    ]
    ran = (
        f"`{record['command']}` at commit `{record['commit']}`, {record['seconds']:g} s, on {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gb']:.0f} GB, {machine['gpu'] or 'no GPU'}; "
        f"{record['threads']} thread(s); load average at the end {machine['load_at_end']:g}. "
        + ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    )
    notes = "\n".join(f"- {note}" for note in record["notes"])
    parts = [f"# {record['benchmark']}", rows_of(claims), rows_of(table), notes, ran]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; the first one names the columns."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
