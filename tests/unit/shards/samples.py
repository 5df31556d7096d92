"""Scans and storage that the tests of this package share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.snapshot import Shard
from medfuncta_dist.storage.object_store import ObjectStore


def key_of(n: int | str) -> str:
    """A key as an HMAC would give it."""
    return hashlib.sha256(str(n).encode()).hexdigest()


def scan(seed: int = 0, shape: tuple[int, ...] = (6, 5), dtype: str = "int16", channels: int = 1) -> Scan:
    """A canonical scan of noise."""
    array = np.random.default_rng(seed).integers(0, 100, (channels, *shape)).astype(dtype)
    return Scan(array, (1.5,) * len(shape), np.diag([1.5, 2.0, 3.0, 1.0]), "MR", Window(0.0, 99.0), (seed % 3,), seed)


def shard(n: int, samples: int = 10) -> Shard:
    """A shard's record, of no real object."""
    sha, index = key_of(f"shard {n}"), key_of(f"index {n}")
    return Shard(f"datasets/d/shards/{sha}.tar", 10240, sha, samples, f"datasets/d/indexes/{index}.parquet", 900, index)


def run_file(folder: Path, *, storage: str | None = None, name: str = "ecg", **data: object) -> RunFile:
    """A run whose archive is ``folder/archive`` and whose private folder is ``folder/private``."""
    defaults: dict[str, object] = {
        "source": str(folder / "archive"),
        "shape": [187],
        "private": str(folder / "private"),
        "max_quarantined": 0.5,
    }
    return RunFile(name=name, storage=storage or str(folder / "store"), data=Data.model_validate(defaults | data))


def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all uploads from here on, as they happen."""
    paths: list[str] = []
    upload = ObjectStore.upload

    def counted(store: ObjectStore, local: Path, path: str) -> None:
        paths.append(path)
        upload(store, local, path)

    monkeypatch.setattr(ObjectStore, "upload", counted)
    return paths


def objects(store: ObjectStore) -> dict[str, bytes]:
    """Everything in storage."""
    return {info.path: store.read(info.path) for info in store.list("")}
