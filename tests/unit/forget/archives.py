"""A run over pictures of several patients, packed, fitted and evaluated: what ``forget`` works on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.latent_ledger import load_table
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.packing.pack_driver import PackSummary, pack
from medfuncta_dist.shards.snapshot import load_snapshot, read_index
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.mapping_rows import read_mapping
from tests.unit.latents.fitted import network, publish, run_file
from tests.writers import write_png

PATIENTS, EACH = 9, 3


class Scan(NamedTuple):
    """All that is known of a packed scan."""

    key: str
    split: str
    source: str
    group: str
    npy: bytes
    """Its values, without the header."""


def archive(folder: Path) -> None:
    (folder / "private").mkdir(parents=True)
    (folder / "private" / "salt").write_text("5e" * 32)  # splits are drawn by keys: the same in every test
    for patient in range(PATIENTS):
        (folder / "archive" / f"patient_{patient:03}").mkdir(parents=True)
        for number in range(EACH):
            write_png(picture(folder, patient, number), (12, 12), seed=100 * patient + number)


def picture(folder: Path, patient: int, number: int = 0) -> Path:
    return folder / "archive" / f"patient_{patient:03}" / f"scan-{number}.png"


def run_of(folder: Path, storage: str | None = None, **data: Any) -> RunFile:
    defaults = {"source": str(folder / "archive"), "sources_per_task": 12, "fractions": {"train": 0.6, "test": 0.4}}
    return run_file(folder, storage, data=defaults | {"max_quarantined": 0.5} | data, evaluate={"pictures": 4})


def finished(folder: Path, storage: str | None = None, **data: Any) -> RunFile:
    """Packed, with a network, latents and a report."""
    archive(folder)
    run = run_of(folder, storage, **data)
    packed(run)
    publish(run, network(run))
    fitted(run)
    evaluate(run, map_here)
    return run


def copied(finished: Path, folder: Path) -> RunFile:
    """A copy of a finished run's folder, and the run of it."""
    shutil.copytree(finished, folder)
    run = run_of(folder)
    write_run_file(run)
    return run


def write_run_file(run: RunFile) -> None:
    ObjectStore(run.storage).write(f"runs/{run.name}/run.yaml", dump(run).encode())


def packed(run: RunFile) -> PackSummary:
    return pack(run, map_here, lambda progress: None)


def fitted(run: RunFile) -> Any:
    """With the catalogue, which the fit stage writes when its driver is done."""
    write_run_file(run)
    summary = fit(run, map_here)
    store = ObjectStore(run.storage)
    table = locate_table(run, store)
    if summary.counts.fitted:
        write_catalogue(store, table.folder, table.shards, ALONE)
    return summary


def scans(run: RunFile, digest: str | None = None) -> dict[str, Scan]:
    """The packed scans of a snapshot, by key."""
    store, found = ObjectStore(run.storage), {}
    for split, shards in load_snapshot(store, run.dataset, digest).splits.items():
        for shard in shards:
            tar = store.read(shard.uri)
            for row in read_index(store, shard).to_pylist():
                npy = tar[row["npy_offset"] : row["npy_offset"] + row["npy_length"]]
                found[row["key"]] = Scan(row["key"], split, row["source"], row.get("group", ""), npy[128:])
    return found


def latents(run: RunFile) -> dict[str, list[float]]:
    """Of the present table, by key."""
    store = ObjectStore(run.storage)
    location = locate_table(run, store)
    rows = load_table(store, location.folder, shards=location.shards)
    return dict(zip(rows["key"].to_pylist(), rows["latent"].to_pylist(), strict=True))


def keys_of(folder: Path, part: str) -> list[str]:
    """The keys of the files whose path holds ``part``."""
    return [row.key for row in read_mapping(folder / "private") if part in row.uri]
