"""Half a million files of the public code's latents, imported into a run and exported again: time, memory, equality.

The files are written in the public layout, a latent and a label each. Both commands run as a user runs them, with all
files and with fewer, so that what grows faster than their number is seen. Every file that comes out
is then read by torch, and compared with the one that went in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import ROOT, Claim, arguments, report
from medfuncta_dist.config.load import load
from medfuncta_dist.exchange.import_network import import_to_run
from medfuncta_dist.exchange.public_network import to_public
from medfuncta_dist.fields.field_kinds import init_params
from medfuncta_dist.network.core_settings import field_spec

COMMANDS = ("import-latents", "export-latents")
LATENT, CLASSES, TRAIN = 64, 14, 0.8
FILES, SHORT_FILES = (500_000, 20_000, 10), (400, 100, 10)
"""The last tells what the start of a process takes."""
RUN = """\
name: half-a-million
storage: {folder}/storage
data: {{source: '{folder}/none/*.npz', shape: [16, 16], private: '{folder}/private'}}
field: {{layers: 5, hidden: 32, latent: {latent}, omega_first: 10, omega_last: 30, modulate_first: true}}
cluster: {{cache: '{folder}/cache'}}
"""
NOTES = [
    f"latents of {LATENT} numbers; the network decodes nothing here, as no scans are packed",
    "memory is the most that the process had at once, libraries included; the time of the processor is that of "
    "all its threads",
    "local disk; the files were written just before, so that their bytes may be in the page cache",
]


def main() -> None:
    short, began = arguments(__doc__).short, time.perf_counter()
    results = {}
    for files in SHORT_FILES if short else FILES:
        with tempfile.TemporaryDirectory() as folder:
            results[files] = measure(Path(folder), files)
            print(json.dumps({files: results[files]}), file=sys.stderr)
    add_times_per_file(results)
    table = [{"command": name, "files": files} | results[files][name] for name in COMMANDS for files in results]
    report("public_latents", short, began, results, claims_of(results), table, NOTES)


def add_times_per_file(results: dict[int, dict[str, Any]]) -> None:
    """Of the processor, beyond what the smallest number of files takes."""
    start = results[min(results)]
    for files, found in results.items():
        for name in COMMANDS:
            beyond = found[name]["processor, s"] - start[name]["processor, s"]
            found[name]["beyond the start, µs per file"] = 1e6 * beyond / files


def claims_of(results: dict[int, dict[str, Any]]) -> list[Claim]:
    files, few = max(results), results[sorted(results)[1]]
    many = results[files]
    claims = [Claim(f"files of {files} that are missing or another when they come out", many["differ"], 0, False)]
    for name in COMMANDS:
        for what in ("beyond the start, µs per file", "memory, MB"):
            claims.append(
                Claim(f"{name}: {what}, of that at fewer files", many[name][what] / few[name][what], 1.2, False)
            )
    return claims


def measure(folder: Path, files: int) -> dict[str, Any]:
    """Both commands on so many files, and how many of these do not come out as they went in."""
    run_file, came, went = folder / "run.yaml", folder / "mednf", folder / "out"
    run_file.write_text(RUN.format(folder=folder, latent=LATENT))
    import_to_run(load(str(run_file)), str(network_file(folder)))
    write_files(came, files)
    return {
        "import-latents": command("import-latents", str(run_file), str(came)),
        "export-latents": command("export-latents", str(run_file), "--out", str(went)),
        "differ": sum(not equal(came / name, went / name) for name in names(files)),
    }


def network_file(folder: Path) -> Path:
    """A random network, as the public code saves one."""
    spec, path = field_spec(load(str(folder / "run.yaml"))), folder / "best.model"
    torch.save(to_public(spec, init_params(spec, torch.Generator().manual_seed(0)), (16, 16)), path)  # type: ignore[arg-type]
    return path


def names(files: int) -> list[str]:
    """Paths of the files below the folder; a split's numbers begin at 0."""
    train = int(TRAIN * files)
    counts = {"train": train, "test": files - train}
    return [f"{split}/datapoint_{n}.pt" for split, count in counts.items() for n in range(count)]


def write_files(folder: Path, files: int) -> None:
    """As the public code writes them, one by one; labels as MedMNIST gives them."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    for name in names(files):
        latent = torch.from_numpy(rng.standard_normal(LATENT, np.float32))
        label = torch.from_numpy(rng.integers(0, CLASSES, 1, np.uint8))
        torch.save({"modulations": latent, "label": label}, folder / name)


def command(*words: str) -> dict[str, Any]:
    """A command as a process of its own: seconds, memory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "medfuncta_dist.cli.app", *words, "--json"], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{words[0]} ended with {code}")
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "seconds": time.perf_counter() - began,
        "processor, s": cpu,
        "memory, MB": usage.ru_maxrss / 1024,
    }


def equal(came: Path, went: Path) -> bool:
    """Whether both hold the same latent and label, of the same types, to the bit."""
    if not went.exists():
        return False
    one, two = (torch.load(path, weights_only=True) for path in (came, went))
    return all(one[key].dtype == two[key].dtype and torch.equal(one[key], two[key]) for key in ("modulations", "label"))


if __name__ == "__main__":
    main()
