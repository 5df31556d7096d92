"""Searching neighbours: seconds and bytes to make an index, milliseconds a query, recall of the ten nearest.

Latents are made: normal numbers whose variances fall as those of a basis field's latents on PneumoniaMNIST do (i^-1.6,
ranks 5 to 128, by least squares of logarithms), turned so that every number mixes all. 100 000 of 2048 numbers in every
kind of index, and a million of ``--numbers`` in the compressed one: at 2048 it takes 2.9 GB.
Index and effort are those that the product chooses for so many scans; queries are latents that are in no index, asked
one at a time, on one thread.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft

from benchmarks.common import Claim, Kept, report
from medfuncta_dist.neighbours import faiss_index
from medfuncta_dist.neighbours.faiss_index import NO_EFFORT, Hits
from medfuncta_dist.neighbours.index_driver import EFFORTS, ENOUGH, PROBES
from medfuncta_dist.neighbours.index_plan import BLOCK_NUMBERS, KINDS, IndexKind, kind_for, recipe, sample_scans

FALL = 1.6
QUERIES = 200
NEAR = 10
NUMBERS = 2048
FEW, MANY = 100_000, 1_000_000


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few scans; writes no results")
    parser.add_argument("--numbers", type=int, default=512, help="of each of the million latents")
    parser.add_argument("--only", help="one index, for example '1000000 compressed', kept and not reported")
    parser.add_argument("--keep", type=Path, help="a file that keeps each index's results, to go on after a kill")
    given, began = parser.parse_args(), time.perf_counter()
    faiss_index.use_threads(1)
    kept = Kept(given.keep)
    sizes = [(3000, 64), (6000, 64)] if given.short else [(FEW, NUMBERS), (MANY, given.numbers)]
    cases = [*((kind, *sizes[0]) for kind in KINDS), ("compressed", *sizes[1])]
    for kind, scans, numbers in cases:
        if given.only in (None, f"{scans} {kind}"):
            kept.once(f"{scans} {kind}", partial(measure, kind, scans, numbers))
    if given.only is None:
        told(given.short, began, [kept.results[f"{scans} {kind}"] for kind, scans, _ in cases])


def blocks_of(scans: int, numbers: int, seed: int = 0) -> Iterator[np.ndarray]:
    """The latents, as many at a time as a task of the product has."""
    most = BLOCK_NUMBERS // numbers
    for start in range(0, scans, most):
        yield latents(min(most, scans - start), numbers, seed + start)


def latents(scans: int, numbers: int, seed: int) -> np.ndarray:
    """Float32, of the given spectrum, turned by signs and a cosine transform, which is orthonormal."""
    made = np.random.default_rng(seed).standard_normal((scans, numbers), np.float32)
    made *= np.arange(1, numbers + 1, dtype=np.float32) ** (-FALL / 2)
    made *= np.random.default_rng(7).choice(np.float32([-1, 1]), numbers)
    turned: np.ndarray = scipy.fft.dct(made, axis=1, norm="ortho", overwrite_x=True)
    return turned


def measure(kind: IndexKind, scans: int, numbers: int) -> dict[str, Any]:
    """One index, made as the product makes it."""
    began = time.process_time()
    sample = latents(sample_scans(scans, numbers), numbers, seed=-1 % 2**32)
    words = recipe(kind, scans, numbers, len(sample))
    empty = faiss_index.learned(words, sample)
    learned_s = time.process_time() - began
    probes, queries = latents(PROBES, numbers, seed=2**31), latents(QUERIES, numbers, seed=2**31 + 1)
    indexes, size, seconds, truth = [], 0, 0.0, [list[Hits](), list[Hits]()]
    for place, block in enumerate(blocks_of(scans, numbers)):
        for found, asked in zip(truth, (probes, queries), strict=True):
            found.append(shifted(faiss_index.nearest_exactly(asked, block, NEAR), place * (BLOCK_NUMBERS // numbers)))
        began = time.process_time()
        data = faiss_index.filled(empty, block)
        seconds, size = seconds + time.process_time() - began, size + len(data)
        indexes.append(faiss_index.from_bytes(data, kind, numbers, len(block)))
    index = faiss_index.merged(indexes)
    effort = NO_EFFORT if kind == "exact" else least_effort(index, probes, nearest(truth[0]))
    times, walls, found = [], [], []
    for query in queries:
        started, wall = time.process_time(), time.perf_counter()
        found.append(faiss_index.search(index, query[None], NEAR, effort).places[0])
        times.append(1000 * (time.process_time() - started))
        walls.append(1000 * (time.perf_counter() - wall))
    row = {
        "scans": scans,
        "numbers": numbers,
        "kind": kind + (" (the choice for so many)" if kind == kind_for(scans) else ""),
        "faiss": words,
        "lists": effort.lists,
        "candidates": effort.candidates,
        "recall": recall(np.array(found), nearest(truth[1])),
        "CPU ms a query": statistics.median(times),
        "fastest, by the clock": min(walls),
        "CPU s to learn": learned_s,
        "CPU s to fill": seconds,
        "GB": size / 1e9,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    return row


def shifted(hits: Hits, start: int) -> Hits:
    """Places of a block as places of all."""
    return Hits(hits.distances, hits.places + start)


def nearest(blocks: list[Hits]) -> np.ndarray:
    """Places of the nearest of all blocks."""
    distances = np.concatenate([one.distances for one in blocks], axis=1)
    places = np.concatenate([one.places for one in blocks], axis=1)
    return np.take_along_axis(places, np.argsort(distances, axis=1)[:, :NEAR], axis=1)


def least_effort(index: Any, probes: np.ndarray, truth: np.ndarray) -> faiss_index.Effort:
    """As the product chooses it."""
    for effort in EFFORTS:
        if recall(faiss_index.search(index, probes, NEAR, effort).places, truth) >= ENOUGH:
            break
    return effort


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours that were found."""
    return float(np.mean([len(set(a) & set(b)) / NEAR for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))


def told(short: bool, began: float, measured: list[dict[str, Any]]) -> None:
    """The claims and the table."""
    reduced, last = measured[1], measured[-1]
    first, second = (f"{row['scans']} x {row['numbers']}" for row in (reduced, last))
    claims = [
        Claim(f"{first}: recall of the ten nearest", reduced["recall"], 0.95, True),
        Claim(f"{first}: CPU milliseconds a query", reduced["CPU ms a query"], 20.0, False),
        Claim(f"{second} in eight bits: recall of the ten nearest", last["recall"], 0.95, True),
    ]
    notes = [
        f"Variances fall as i^-{FALL:g}; {QUERIES} queries, one at a time on one thread; the median of their CPU time, "
        "which other load changes little, and the fastest by the clock, in ms.",
        "GB: the index, without keys and labels; peak: of the process so far, latents of one block and truth included.",
    ]
    results = {f"{row['scans']} {row['kind'].split()[0]}": row for row in measured}
    report("neighbours", short, began, results, claims, measured, notes)


if __name__ == "__main__":
    main()
