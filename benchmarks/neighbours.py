"""Searching neighbours: seconds and bytes to make an index, milliseconds a query, recall of the ten nearest.

Latents are made: normal numbers whose variances fall as those of a basis field's latents on PneumoniaMNIST do (i^-1.6,
ranks 5 to 128, by least squares of logarithms), turned so that every number mixes all. 100 000 of 2048 numbers in every
kind of index, and a million in the compressed one. Index and effort are those that the product chooses for so many
scans; queries are latents that are in no index, asked one at a time, on one thread.
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
    parser.add_argument("--keep", type=Path, help="a file that keeps each index's results, to go on after a kill")
    given, began = parser.parse_args(), time.perf_counter()
    faiss_index.use_threads(1)
    few, many, numbers = (3000, 6000, 64) if given.short else (FEW, MANY, NUMBERS)
    kept = Kept(given.keep)
    for scans, kinds in ((few, KINDS), (many, ("compressed",))):
        for kind in kinds:
            kept.once(f"{scans} {kind}", partial(measure, kind, scans, numbers))
    told(given.short, began, list(kept.results.values()), numbers)


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
    times, found = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(faiss_index.search(index, query[None], NEAR, effort).places[0])
        times.append(1000 * (time.perf_counter() - started))
    row = {
        "scans": scans,
        "kind": kind + (" (the choice for so many)" if kind == kind_for(scans) else ""),
        "faiss": words,
        "lists": effort.lists,
        "candidates": effort.candidates,
        "recall": recall(np.array(found), nearest(truth[1])),
        "ms a query": statistics.median(times),
        "ms, fastest": min(times),
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


def told(short: bool, began: float, measured: list[dict[str, Any]], numbers: int) -> None:
    """The claims and the table."""
    reduced, last = measured[1], measured[-1]
    claims = [
        Claim(f"{reduced['scans']} x {numbers}: recall of the ten nearest", reduced["recall"], 0.95, True),
        Claim(f"{reduced['scans']} x {numbers}: ms a query", reduced["ms a query"], 20.0, False),
        Claim(f"{last['scans']} x {numbers} in eight bits: recall of the ten nearest", last["recall"], 0.95, True),
    ]
    notes = [
        f"Variances fall as i^-{FALL:g}; {QUERIES} queries, median of their times, on one thread.",
        "GB: the index, without keys and labels; peak: of the process so far, latents of one block and truth included.",
        "The whitened metric has no such fall: see docs/how-to/neighbours.md.",
    ]
    results = {f"{row['scans']} {row['kind'].split()[0]}": row for row in measured}
    report("neighbours", short, began, results, claims, measured, notes)


if __name__ == "__main__":
    main()
