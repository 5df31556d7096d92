"""Whether every scan of a made archive is there once: read from the stored files, not through the package."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.million.made_archive import MadeArchive, file_name

SALT_LINE = "salt"


@dataclass(frozen=True)
class Balance:
    """Scans against those that were made. ``strange``: keys that no made scan has. ``mistaken``: another's values."""

    found: int
    lost: int
    doubled: int
    strange: int
    mistaken: int

    @property
    def whole(self) -> bool:
        """Whether each is there once, and nothing else is."""
        return not (self.lost or self.doubled or self.strange or self.mistaken)


def key_of(salt: bytes, file: str, item: str) -> bytes:
    """A scan's key as docs/formats.md defines it."""
    parts = [part.encode() for part in ("scan", file, item)]
    return hmac.digest(salt, b"".join(len(part).to_bytes(8, "big") + part for part in parts), hashlib.sha256)


def made_keys(archive: MadeArchive, salt: bytes) -> dict[bytes, int]:
    """Key to number (file and row) of every scan that was made."""
    return {key_of(salt, file_name(file), f"row/{row}"): file * 1000 + row for file, row in archive.places()}


def packed_balance(dataset: Path, made: dict[bytes, int]) -> Balance:
    """Of the only snapshot's shards, whose samples must be those that their keys say."""
    [snapshot] = (dataset / "snapshots").glob("*.json")
    splits = json.loads(snapshot.read_bytes())["snapshot"]["splits"]
    root = dataset.parents[1]
    found = [pair for shards in splits.values() for shard in shards for pair in samples_of(root, shard)]
    mistaken = sum(made.get(key, number) != number for key, number in found)
    return balanced((key for key, _ in found), made, mistaken)


def samples_of(root: Path, shard: dict[str, str]) -> Iterator[tuple[bytes, int]]:
    """Key, and the number that the values begin with, of each sample."""
    rows = pq.read_table(root / shard["index_uri"], columns=["key", "npy_offset", "npy_length"])
    tar = np.memmap(root / shard["uri"], np.uint8, "r")
    for key, start, length in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True):
        yield bytes.fromhex(key), number_of(tar[start : start + length].tobytes())


def number_of(npy: bytes) -> int:
    """File and row that a signal's first values name."""
    at = 10 + int.from_bytes(npy[8:10], "little")
    kind = "<f4" if b"'<f4'" in npy[:at] else "<f8"
    file, row = np.frombuffer(npy, kind, count=2, offset=at)
    return round(file * 1000) * 1000 + round(row * 1000)


def fitted_balance(latents: Path, made: dict[bytes, int]) -> Balance:
    """Of all parts that commit records name."""
    [folder] = latents.iterdir()
    records = [json.loads(file.read_bytes())["body"] for file in (folder / "commits").glob("*.json")]
    # A range may have records of two drivers, the first of which was killed: they name one part.
    parts = {record["part"]["path"] for record in records if record["part"]}
    keys = (key for part in parts for key in pq.read_table(folder / part, columns=["key"])["key"].to_pylist())
    return balanced(map(bytes.fromhex, keys), made, 0)


def balanced(keys: Iterable[bytes], made: dict[bytes, int], mistaken: int) -> Balance:
    """Of keys that were found."""
    found = Counter(keys)
    return Balance(
        found=found.total(),
        lost=len(made.keys() - found.keys()),
        doubled=sum(n > 1 for n in found.values()),
        strange=len(found.keys() - made.keys()),
        mistaken=mistaken,
    )
