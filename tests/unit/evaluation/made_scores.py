"""Scores of scans that were never there, in the columns of metrics.parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from medfuncta_dist.evaluation.score_task import SCHEMA
from medfuncta_dist.shards.snapshot import Shard


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def shard(name: str) -> Shard:
    return Shard(f"{name}.tar", 1, digest(name), 1, f"{name}.parquet", 1, digest(f"index {name}"))


def scores(
    count: int,
    name: str = "a",
    *,
    label: Callable[[int], int | None] = lambda i: i % 2,
    split: Callable[[int], str] = lambda i: "test",
    psnr: Callable[[int], float] = lambda i: 20.0 + i % 7,
) -> pa.Table:
    """``count`` scans of shard ``name``, sorted by key. The functions take the row in the shard."""
    rows = [
        {
            "key": digest(f"{name} {i}"),
            "split": split(i),
            "labels": [] if label(i) is None else [int(label(i) or 0)],
            "psnr": psnr(i),
            "ssim": 0.5 + psnr(i) / 100,
            "mse": float(10 ** (-psnr(i) / 10)),
            "fit_psnr": psnr(i),
            "below_min": psnr(i) < 21,
            "shard": digest(name),
            "row": i,
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["key"])), schema=SCHEMA)


def latents(labels: np.ndarray, size: int = 16, seed: int = 0) -> np.ndarray:
    """Of two groups that lie apart."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), size))
    return np.asarray(noise + 6 * labels[:, None], np.float32)
