"""A million scans through pack, training and fit, with kill -9 in every stage: nothing lost, nothing doubled, and at
what cost in time, memory, objects and requests.

Signals of 64 values in CSV files on S3 (rclone, a process of its own), three Ray nodes of one CPU on this machine, a
small basis field. In each stage the driver is killed and started again; in pack and fit a node is killed before that.
Requests are counted in front of the server, memory is that of the driver's process, and the balance is made from the
stored files. `--scans N` takes another number; `--keep FOLDER` leaves everything there, from where a benchmark that was
interrupted goes on.
"""

from __future__ import annotations

import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s3fs import S3FileSystem

from benchmarks.common import Claim, Kept, arguments, report
from benchmarks.million.balance import fitted_balance, made_keys, packed_balance
from benchmarks.million.made_archive import POINTS, MadeArchive
from benchmarks.million.place import BUCKET, NODES, Nodes, Place, ray_nodes, wait_until
from benchmarks.million.watched_driver import CpuMeter, WatchedDriver, growth
from medfuncta_dist.scans.private.private_folder import load_salt

MILLION, SHORT = 1_000_000, 5_000
RUN = "million"
STORE = f"store/runs/{RUN}"
DATASET = f"store/datasets/{RUN}"
LARGEST_GROWTH = 0.1
NODE_AT, DRIVER_AT = 0.15, 0.35
"""Shares of a stage's commit records after which a node is killed, and the driver."""


@dataclass(frozen=True)
class Stage:
    """A stage of the job, and when to kill: after so many files in ``records`` the node (0: never), and the driver."""

    name: str
    records: str
    node_after: int
    driver_after: int


def main() -> None:
    given = list(sys.argv)
    scans, folder = _own_arguments()
    short, began = arguments(__doc__).short, time.perf_counter()
    sys.argv = given  # the report tells the whole command
    scans = scans or (SHORT if short else MILLION)
    with _kept(folder) as where, Place(where) as place:
        archive, kept = MadeArchive(f"{BUCKET}/archive", scans), Kept(where / "measured.jsonl")
        kept.once("archive", lambda: _write(archive, place))
        run_yaml = where / "run.yaml"
        run_yaml.write_text(run_text(where, scans))
        for stage in stages_of(scans):
            kept.once(stage.name, lambda stage=stage: _measured(stage, place, run_yaml))  # type: ignore[misc]
        kept.once("balance", lambda: _balances(archive, place))
    _report(scans, short, began, kept.results)


def _own_arguments() -> tuple[int, Path | None]:
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--scans", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    own, sys.argv[1:] = parser.parse_known_args()
    return own.scans, own.keep


@contextmanager
def _kept(folder: Path | None) -> Iterator[Path]:
    """The folder, or a temporary one; its path is short, for Ray's sockets lie below it."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="mf-") as made:
        yield Path(made)


def run_text(where: Path, scans: int) -> str:
    """The run file. Tasks are small enough for a stage to have a hundred of a million scans."""
    return f"""
name: {RUN}
storage: s3://{BUCKET}/store
preset: 1d
data:
  source: s3://{BUCKET}/archive/*.csv
  reader: ecg-csv
  csv: {{skip: [], header: false}}
  shape: [{POINTS}]
  intensity: {{mode: range, low: 0, high: 1}}
  sources_per_task: {files_per_task(scans)}
  private: {where / "private"}
field: {{hidden: 16, latent: 8, features: 8}}
train: {{batch: 63, steps: 60, warmup_steps: 5, checkpoint_steps: 10, validate_steps: 30}}
fit: {{scans_per_task: 1024}}
cluster: {{workers: {NODES}, cache: {where / "cache"}}}
telemetry: {{wandb: off}}
"""


def files_per_task(scans: int) -> int:
    """Ten; in a small archive one, so that there is something to kill."""
    return 10 if scans >= MILLION // 20 else 1


def stages_of(scans: int) -> list[Stage]:
    """The job, and where it is killed."""
    packs, shards = scans // 1000 // files_per_task(scans), scans // 1024
    return [
        Stage("pack", f"{DATASET}/packs", max(1, int(packs * NODE_AT)), max(2, int(packs * DRIVER_AT))),
        Stage("train", f"{STORE}/checkpoints/commits", 0, 1),
        Stage("fit", f"{STORE}/latents", max(1, int(2 * shards * NODE_AT)), max(3, int(2 * shards * DRIVER_AT))),
    ]


def _write(archive: MadeArchive, place: Place) -> dict[str, Any]:
    began = time.monotonic()
    client = {name: place.environment[f"AWS_{name}"] for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    files = S3FileSystem(
        endpoint_url=client["ENDPOINT_URL"], key=client["ACCESS_KEY_ID"], secret=client["SECRET_ACCESS_KEY"]
    )
    archive.write(files)
    return {"files": archive.files, "bytes": files.du(archive.folder), "seconds": time.monotonic() - began}


def _measured(stage: Stage, place: Place, run_yaml: Path) -> dict[str, Any]:
    """The stage on a cluster of its own, killed and started again; what it took, and what it left."""
    with ray_nodes(place) as nodes, CpuMeter(nodes) as cpu:
        before, objects, began = place.counts(), _objects(place), time.monotonic()
        drivers = list(_drivers(stage, place, run_yaml, nodes))
        seconds = time.monotonic() - began
        requests = place.counts() - before
    memory, written = (
        [driver.memory for driver in drivers],
        [file.stat().st_mtime for file in place.objects(stage.records)],
    )
    return {
        "seconds": seconds,
        "driver_seconds": [driver.seconds for driver in drivers],
        "driver_cpu_s": sum(driver.cpu_s for driver in drivers),
        "nodes_cpu_s": cpu.seconds,
        "driver_memory": growth(memory[-1], max(written) - drivers[-1].began),
        "driver_memory_mb": [_thinned(one) for one in memory],
        "requests": dict(sorted(requests.items())),
        "objects": dict(sorted((_objects(place) - objects).items())),
        "said": drivers[-1].answer,
    }


def _drivers(stage: Stage, place: Place, run_yaml: Path, nodes: Nodes) -> Iterator[WatchedDriver]:
    """The driver that is killed, and the one that ends the stage."""

    def after(records: int) -> Callable[[], bool]:
        return lambda: len(place.objects(stage.records)) >= records

    with WatchedDriver(stage.name, run_yaml, nodes) as first:
        if stage.node_after and wait_until(after(stage.node_after), first.running):
            nodes.kill_one()
        if not wait_until(after(stage.driver_after), first.running):
            raise SystemExit(f"the stage {stage.name} ended before it was killed: {first.result()}")
        first.kill()
    yield first
    with WatchedDriver(stage.name, run_yaml, nodes) as second:
        second.answer = second.result()
    yield second


def _objects(place: Place) -> Counter[str]:
    """Objects by what they are: the folder that they lie in."""
    return Counter(file.parent.name for file in place.objects("store"))


def _thinned(memory: list[tuple[float, float]]) -> list[list[float]]:
    """At most some fifty samples: each fiftieth's largest."""
    step = max(1, len(memory) // 50)
    parts = [memory[i : i + step] for i in range(0, len(memory), step)]
    return [[round(part[-1][0]), round(max(mb for _, mb in part))] for part in parts]


def _balances(archive: MadeArchive, place: Place) -> dict[str, dict[str, int]]:
    stored = place.folder / "s3" / BUCKET
    made = made_keys(archive, load_salt(place.folder / "private"))
    return {
        "packed": asdict(packed_balance(stored / DATASET, made)),
        "fitted": asdict(fitted_balance(stored / STORE / "latents", made)),
    }


def _report(scans: int, short: bool, began: float, found: dict[str, Any]) -> None:
    lost = {
        name: [one["lost"], one["doubled"] + one["strange"], one["mistaken"]] for name, one in found["balance"].items()
    }
    claims = [
        Claim(f"{name}: {what}", number, 0, at_least=False)
        for name, numbers in lost.items()
        for what, number in zip(("scans lost", "scans doubled or strange", "scans mistaken"), numbers, strict=True)
    ]
    stages = {name: one for name, one in found.items() if name not in ("archive", "balance")}
    claims += [
        Claim(
            f"{name}: growth of the driver's memory after its first third",
            one["driver_memory"]["growth"],
            LARGEST_GROWTH,
            False,
        )
        for name, one in stages.items()
    ]
    report(
        "million_scans", short, began, {"scans": scans, **found}, claims, [_row(n, s, scans) for n, s in stages.items()]
    )


def _row(name: str, one: dict[str, Any], scans: int) -> dict[str, Any]:
    requests = Counter({kind: n for kind, n in one["requests"].items() if not kind.startswith("bytes")})
    return {
        "stage": name,
        "seconds": one["seconds"],
        "scans/s": scans / one["seconds"] if name != "train" else "",
        "CPU s of the nodes": one["nodes_cpu_s"],
        "CPU s of the drivers": one["driver_cpu_s"],
        "driver, first third, MB": one["driver_memory"]["first_third_mb"],
        "later, MB": one["driver_memory"]["later_mb"],
        "when tasks are done, MB": one["driver_memory"]["at_the_end_mb"],
        "requests": requests.total(),
        "new objects": sum(one["objects"].values()),
    }


if __name__ == "__main__":
    main()
