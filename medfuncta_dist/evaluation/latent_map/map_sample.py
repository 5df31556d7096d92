"""Which scans are on the map: a bounded number, each split and label in proportion. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from medfuncta_dist.evaluation.baselines import evenly
from medfuncta_dist.evaluation.label_names import label_name
from medfuncta_dist.fitting.fit_plan import FitWork

FEWEST_POINTS = 3
"""Scans: two always lie on a line."""
MOST_POINTS = 1000
"""Scans: more would cover each other, and a page with all their thumbnails would be slow."""
MOST_PARTS = 64
"""Parts of the latent table that are read, as many as training shards for PCA of scans."""
MOST_NUMBERS = 2**26
"""Of all latents on the map: 256 MiB as float32, in one process."""


def most_points(latent: int) -> int:
    """How many scans with latents of so many numbers are shown at most."""
    return max(FEWEST_POINTS, min(MOST_POINTS, MOST_NUMBERS // latent))


def choose_scans(scores: pa.Table, works: Sequence[FitWork], most: int) -> pa.Table:
    """At most ``most`` rows of ``scores`` (``metrics.parquet``) from these ranges of the table.

    They are evenly spaced in the order of split, labels and key, so that each label of each split keeps its share. Keys
    are hashes, so within a label the choice is as good as drawn.
    """
    ranges: dict[str, list[range]] = {}
    for work in works:
        ranges.setdefault(work.shard.sha256, []).append(range(work.start, work.stop))
    rows = scores.filter(pc.is_in(scores["shard"], pa.array(list(ranges), pa.string())))
    places = zip(rows["shard"].to_pylist(), rows["row"].to_pylist(), strict=True)
    rows = rows.filter(pa.array([any(row in one for one in ranges[shard]) for shard, row in places], pa.bool_()))
    names = zip(
        rows["split"].to_pylist(), map(label_name, rows["labels"].to_pylist()), rows["key"].to_pylist(), strict=True
    )
    order = [place for _, place in sorted((name, place) for place, name in enumerate(names))]
    return rows.take(pa.array(evenly(order, most), pa.int64()))


def keys_in(rows: pa.Table, work: FitWork) -> tuple[str, ...]:
    """Keys of the chosen rows that lie in a range."""
    here = pc.and_(
        pc.equal(rows["shard"], work.shard.sha256),
        pc.and_(pc.greater_equal(rows["row"], work.start), pc.less(rows["row"], work.stop)),
    )
    return tuple(rows.filter(here)["key"].to_pylist())
