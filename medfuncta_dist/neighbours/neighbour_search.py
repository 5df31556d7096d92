"""The scans nearest to a scan, or to a latent, from the index of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from medfuncta_dist.config import load
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting.whole_scans import locate_whole_scans
from medfuncta_dist.neighbours import faiss_index
from medfuncta_dist.neighbours.index_record import (
    IndexRecord,
    fitted_parts,
    index_folder,
    read_index_record,
    require_present,
)
from medfuncta_dist.neighbours.latent_metric import DEFAULT_METRIC, MetricName
from medfuncta_dist.neighbours.opened_index import Near, OpenedIndex, open_index
from medfuncta_dist.storage.object_store import ObjectStore

SHORTEST_KEY = 8  # hex digits, as for `decode`


@dataclass(frozen=True)
class Neighbour:
    """A scan near another. ``distance``: under the metric ``image``, the root mean squared difference of the two images
    (values in [0, 1]), to first order."""

    key: str
    split: str
    labels: tuple[int, ...]
    distance: float


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The index of a run's latents, in memory.

    Examples:
        >>> neighbours = Neighbours.open("my-xrays.yaml")
        >>> [alike] = neighbours.search([key], count=5, splits=["train"])
        >>> alike[0].distance <= alike[1].distance
        True
    """

    record: IndexRecord
    """How it was made, its recall among it."""
    _index: OpenedIndex

    @classmethod
    def open(cls, run: RunFile | str | Path, metric: MetricName = DEFAULT_METRIC) -> Neighbours:
        """Read the index of a run, by its run file (an object or a path).

        Raises:
            RunFileError: the run file is invalid.
            StageOrderError: there is no index under this metric, or the latent table has changed since.
            IntegrityError: an object of the index is not the one that was committed.
        """
        run = run if isinstance(run, RunFile) else load.load(run)
        store = ObjectStore(run.storage)
        target = locate_whole_scans(run, store, "a search for neighbours")
        folder = index_folder(target.folder)
        record = read_index_record(store, folder, metric)
        require_present(record, fitted_parts(store, target), store.uri(folder))
        return cls(record, open_index(store, folder, record))

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have fitted scans."""
        return [one.split for one in self._index.splits]

    def search(
        self,
        queries: Float[np.ndarray, "query latent"] | Sequence[str],
        count: int = 10,
        splits: Sequence[str] | None = None,
    ) -> list[list[Neighbour]]:
        """The nearest scans to each query, nearest first; fewer than ``count`` where there are not so many.

        Args:
            queries: latents, or keys of scans of the index (or beginnings of at least 8 digits that no other has). A
                scan is not its own neighbour.
            splits: where to look; None for everywhere.

        Raises:
            RunFileError: no scan, or several, have a key, there is no such split, or latents have another length.
        """
        self._check(count, splits)
        if not len(queries):
            return []
        count = min(count, self.record.scans)
        if isinstance(queries, np.ndarray):
            self._check_latents(queries)
            near = self._index.near(self._index.metric.coordinates(queries), count, splits)
            return [self._named(near, row, None, count) for row in range(len(queries))]
        places = [self._place(key) for key in queries]
        vectors = [faiss_index.vectors_of(self._index.splits[n].index, place, 1) for n, place in places]
        near = self._index.near(np.concatenate(vectors), count + 1, splits)
        return [self._named(near, row, place, count) for row, place in enumerate(places)]

    def _check(self, count: int, splits: Sequence[str] | None) -> None:
        if count < 1:
            raise RunFileError(f"{count} neighbours cannot be found", where="count", do="ask for at least 1")
        unknown = sorted(set(splits or ()) - set(self.splits))
        if unknown or (splits is not None and not splits):
            what = f"no scan of split '{unknown[0]}' is in the index" if unknown else "no split is named"
            raise RunFileError(what, where="split", do=f"choose among {', '.join(self.splits)}")

    def _check_latents(self, queries: np.ndarray) -> None:
        map_ = self._index.metric.map
        numbers = self.record.coordinates if map_ is None else len(map_)
        if queries.ndim != 2 or queries.shape[1] != numbers:
            what = f"queries of shape {list(queries.shape)} are no latents of this index"
            raise RunFileError(what, where="queries", do=f"give an array of shape [queries, {numbers}]")

    def _place(self, key: str) -> tuple[int, int]:
        """Number of the split, and place there."""
        if len(key) < SHORTEST_KEY:
            raise RunFileError(f"a key needs at least {SHORTEST_KEY} digits", where="key", do="give more of the key")
        found = [
            (number, place)
            for number, one in enumerate(self._index.splits)
            for place in pc.indices_nonzero(pc.starts_with(one.rows["key"], key)).to_pylist()
        ]
        if len(found) != 1:
            what = f"{'no' if not found else len(found)} scans of the index have this key"
            raise RunFileError(what, where="key", do="take a key from the latent table or the report")
        return found[0]

    def _named(self, near: Near, row: int, itself: tuple[int, int] | None, count: int) -> list[Neighbour]:
        hits = zip(near.distances[row].tolist(), near.splits[row].tolist(), near.places[row].tolist(), strict=True)
        return [self._neighbour(n, p, d) for d, n, p in hits if p >= 0 and (n, p) != itself][:count]

    def _neighbour(self, number: int, place: int, distance: float) -> Neighbour:
        one = self._index.splits[number]
        row: pa.Table = one.rows.slice(place, 1)
        return Neighbour(row["key"][0].as_py(), one.split, tuple(row["labels"][0].as_py()), distance)
