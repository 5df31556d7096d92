"""A latent table of a million scans: opening and listing it, finding a key, also among ten million; and a DataLoader.

The table of a million is written by the fit stage's own writers: parts, ledger and catalogue, with latents of a few
numbers. Of ten million there is the catalogue alone, by its production writer. The DataLoader reads rows in random
order from a smaller table of longer latents, beside the same loader on a plain memory-mapped array of them.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import Claim, arguments, ratio, report, side_by_side
from medfuncta_dist.fitting.fit_plan import FitWork
from medfuncta_dist.fitting.latent_ledger import Commit, write_commit
from medfuncta_dist.latent_table.catalogue.catalogue_files import write_files
from medfuncta_dist.latent_table.catalogue.catalogue_format import SCHEMA, CatalogueRecord
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Catalogue
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.latent_table.catalogue.sorted_runs import SortedRuns
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.latent_table.table_location import OpenedTable
from medfuncta_dist.latents import table_format
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE

FOLDER, PART_ROWS, BATCH = "runs/bench/latents/table", 1024, 256
SHARD = Shard("shards/x.tar", 1, "5" * 64, 10**8, "indexes/x.parquet", 1, "6" * 64)
SIZES = {"listed": 1_000_000, "found": 10_000_000, "loaded": 100_000, "numbers": 512, "keys": 200, "rounds": 5}
SHORT = {"listed": 4_000, "found": 20_000, "loaded": 3_000, "numbers": 16, "keys": 20, "rounds": 2}


def main() -> None:
    short, began = arguments(__doc__).short, time.perf_counter()
    sizes = SHORT if short else SIZES
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "listing": of_listing(Path(folder) / "listed", sizes["listed"], sizes["rounds"], sizes["keys"]),
            "finding": of_finding(Path(folder) / "found", sizes["found"], sizes["keys"]),
            "loading": of_loading(Path(folder) / "loaded", sizes["loaded"], sizes["numbers"], sizes["rounds"]),
        }
    report(
        "latent_table", short, began, {"sizes": sizes, **results}, claims_of(results, sizes), rows_of(results), NOTES
    )


NOTES = [
    "local disk; what is listed and found was written just before, so that its bytes are in the page cache",
    "each key that is found is of a row group that was not read before; the first of a file also reads its footer",
    "ratios are medians over the rounds, of neighbours in time",
]


def claims_of(results: dict[str, Any], sizes: dict[str, int]) -> list[Claim]:
    listing, finding, loading = results["listing"], results["finding"], results["loading"]
    return [
        Claim(f"open and list {sizes['listed']} scans, s, median", statistics.median(listing["seconds"]), 1, False),
        Claim(f"find a key among {sizes['found']}, ms, median", finding["median_ms"], 50, False),
        Claim(f"find a key among {sizes['found']}, ms, slowest but one in ten", finding["most_ms"], 50, False),
        Claim("a shuffled DataLoader, of one on a plain memory-mapped array", loading["of_plain"], 0.8, True),
        Claim("making the catalogue reads of the parts, share", loading["catalogue_read_share"], 0.15, False),
    ]


def rows_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    listing, finding, loading = results["listing"], results["finding"], results["loading"]
    return [
        {
            "what": "open and list, s",
            "median": statistics.median(listing["seconds"]),
            "fastest": min(listing["seconds"]),
        },
        {"what": "open, s", "median": statistics.median(listing["open"]), "fastest": min(listing["open"])},
        {"what": "find in the listed table, ms", "median": listing["median_ms"], "fastest": listing["least_ms"]},
        {"what": "make the catalogue from its parts, s", "median": listing["made_s"], "fastest": listing["made_s"]},
        {"what": "find in the large catalogue, ms", "median": finding["median_ms"], "fastest": finding["least_ms"]},
        {"what": "sort and write the large catalogue, s", "median": finding["made_s"], "fastest": finding["made_s"]},
        {"what": "memory for that beyond the start, MB", "median": finding["made_mb"], "fastest": finding["made_mb"]},
        *(
            {"what": f"{name}, scans/s", "median": statistics.median(speeds), "fastest": max(speeds)}
            for name, speeds in loading["scans_per_s"].items()
        ),
    ]


# -- Listing, in a whole table ----------------------------------------------------------------------------------------


def of_listing(root: Path, scans: int, rounds: int, keys: int) -> dict[str, Any]:
    """Seconds until every key, split, label and PSNR is in memory, from nothing but the table's place."""
    location = write_table(root, scans, numbers=8)
    made_s, _ = timed(lambda: write_catalogue(location.store, FOLDER, location.shards, ALONE))
    found = side_by_side(
        {
            "open": lambda: timed(lambda: LatentTable.at(location))[0],
            "list": lambda: timed(lambda: require(LatentTable.at(location).listing(), scans))[0],
        },
        rounds,
    )
    table = LatentTable.at(location)
    asked = np.random.default_rng(0).choice(table.keys, keys, replace=False).tolist()
    return {
        "seconds": found["list"],
        "open": found["open"],
        "made_s": made_s,
        **finding_times(lambda key: [LatentTable.at(location).find(key)], asked[:20]),
    }


def write_table(root: Path, scans: int, numbers: int) -> OpenedTable:
    """Parts and commit records of so many scans, one range after the other."""
    store, rng = ObjectStore(str(root)), np.random.default_rng(0)
    for start in range(0, scans, PART_ROWS):
        stop = min(start + PART_ROWS, scans)
        table = table_format.part_table(
            part_rows(rng, stop - start, numbers), numbers, "float32", {"network": "0" * 64}
        )
        part = table_format.write_part(store, FOLDER, table)
        work = FitWork("train", SHARD, start, stop)
        write_commit(store, FOLDER, work, Commit("train", SHARD.sha256, start, stop, stop - start, part), ALONE)
    return OpenedTable(store, FOLDER, NetworkRef("w", "d", "0" * 64), frozenset([SHARD.sha256]), (8, 8))


def part_rows(rng: np.random.Generator, count: int, numbers: int) -> table_format.Rows:
    return table_format.Rows(
        split="train",
        keys=keys_of(rng, count),
        labels=[[n % 10] for n in range(count)],
        latents=rng.standard_normal((count, numbers), np.float32),
        scales=None,
        psnr=rng.uniform(20, 40, count).astype(np.float32),
        below_min=np.zeros(count, bool),
        steps=np.full(count, 3, np.int32),
        windows=[(0.0, 255.0)] * count,
        spacings=[(1.0, 1.0)] * count,
        affines=[None] * count,
        modalities=["XR"] * count,
        slices=[None] * count,
    )


def keys_of(rng: np.random.Generator, count: int) -> list[str]:
    text = rng.bytes(32 * count).hex()
    return [text[64 * n : 64 * (n + 1)] for n in range(count)]


def require(listing: pa.Table, scans: int) -> None:
    assert listing.num_rows == scans


# -- Finding, in a catalogue alone ------------------------------------------------------------------------------------


def of_finding(root: Path, scans: int, keys: int) -> dict[str, Any]:
    """Milliseconds per key, each of a row group of its own."""
    asked: list[str] = []
    with Memory() as memory:
        made_s, record = timed(lambda: write_large(root, scans, asked))
    catalogue = Catalogue(ObjectStore(str(root)), "table", record)
    chosen = np.random.default_rng(1).permutation(asked)[:keys].tolist()
    return {"made_s": made_s, "made_mb": memory.most_mb, **finding_times(catalogue.find, chosen)}


def write_large(root: Path, scans: int, asked: list[str]) -> CatalogueRecord:
    """``asked`` gets some of the keys."""
    (root / "runs").mkdir(parents=True)
    rng, runs, step = np.random.default_rng(2), SortedRuns(root / "runs"), 2**15
    for start in range(0, scans, step):
        count = min(step, scans - start)
        keys, rows = key_column(rng, count), np.arange(count, dtype=np.int32)
        asked += keys[:: max(1, count // 4)].to_pylist()
        splits = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), ["train"]).cast(pa.string())
        labels = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32), rows % 10)
        psnr, below = rng.uniform(20, 40, count).astype(np.float32), np.zeros(count, bool)
        columns = [keys, splits, labels, psnr, below, (rows + start) // PART_ROWS, rows % PART_ROWS]
        runs.add(pa.table(columns, schema=SCHEMA))
    files = write_files(runs.merged(), root / "table")
    return CatalogueRecord("0" * 64, scans, "float32", 8, (), tuple(files))


def key_column(rng: np.random.Generator, count: int) -> pa.Array:
    """Random keys, without a Python object for each."""
    offsets = np.arange(0, 64 * (count + 1), 64, dtype=np.int32)
    text = rng.bytes(32 * count).hex().encode()
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


def finding_times(find: Callable[[str], list[Any]], keys: list[str]) -> dict[str, float]:
    seconds = sorted(timed(lambda key=key: require_found(find(key), key))[0] for key in keys)  # type: ignore[misc]
    return {
        "least_ms": 1e3 * seconds[0],
        "median_ms": 1e3 * statistics.median(seconds),
        "most_ms": 1e3 * seconds[int(0.9 * len(seconds))],
    }


def require_found(entries: list[Any], key: str) -> None:
    assert [entry.key for entry in entries] == [key]


class Memory:
    """The most memory that this process had of its own while the block ran, beyond what it had before."""

    def __enter__(self) -> Memory:
        self._before, self.most_mb, self._done = own_mb(), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self.most_mb = max(self.most_mb, own_mb() - self._before)


def own_mb() -> float:
    """Memory without mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


# -- Loading ----------------------------------------------------------------------------------------------------------


class CountingStore(ObjectStore):
    """Counts the bytes of ranged reads."""

    ranged = 0

    def read_range(self, path: str, start: int, length: int) -> bytes:
        self.ranged += length
        return super().read_range(path, start, length)


def of_loading(root: Path, scans: int, numbers: int, rounds: int) -> dict[str, Any]:
    """Scans per second in random order: ours, and the same loader on one plain array."""
    from torch.utils.data import DataLoader

    location, store = write_table(root, scans, numbers), CountingStore(str(root))
    made_s, _ = timed(lambda: write_catalogue(store, FOLDER, location.shards, ALONE))
    parts = sum(file.stat().st_size for file in (root / FOLDER / "parts").iterdir())
    table = LatentTable.at(location)
    dataset, plain = table.torch_dataset(), PlainRows(root / "plain.npy", table)

    def speed(data: Any, workers: int) -> Callable[[], float]:
        loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers)
        return lambda: scans / timed(lambda: sum(len(batch["latent"]) for batch in loader))[0]

    first = speed(dataset, 0)()
    found = side_by_side(
        {
            "DataLoader": speed(dataset, 0),
            "DataLoader on a plain array": speed(plain, 0),
            "DataLoader, 2 workers": speed(dataset, 2),
            "plain array, 2 workers": speed(plain, 2),
            "plain array, batches by numpy alone": lambda: scans / timed(lambda: plain.read_all())[0],
            "Arrow batches in the order of storage": lambda: scans / timed(lambda: read_batches(table))[0],
        },
        rounds,
    )
    return {
        "catalogue_made_s": made_s,
        "catalogue_read_share": store.ranged / parts,
        "scans_per_s": {"first pass, with the copy": [first], **found},
        "of_plain": ratio(found["DataLoader"], found["DataLoader on a plain array"]),
        "of_plain_2_workers": ratio(found["DataLoader, 2 workers"], found["plain array, 2 workers"]),
    }


def read_batches(table: LatentTable) -> int:
    return sum(batch.num_rows for batch in table.arrow(["latent"]))


class PlainRows:
    """What a user would write who has the latents in one .npy file."""

    def __init__(self, path: Path, table: LatentTable) -> None:
        np.save(path, table.numpy())
        self._rows = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        import torch

        latents = torch.from_numpy(self._rows[places])
        return [{"latent": latent, "label": 0, "place": place} for latent, place in zip(latents, places, strict=True)]

    def read_all(self) -> None:
        for places in _batches(len(self)):
            self._rows[places].sum()


def _batches(scans: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(3).permutation(scans)
    yield from (order[start : start + BATCH] for start in range(0, scans, BATCH))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
