"""What a prior is trained on: the latents and classes of a run's training split, as the latent table has them now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting.fit_driver import TableLocation
from medfuncta_dist.fitting.fit_plan import cover
from medfuncta_dist.fitting.latent_ledger import load_table, read_commits
from medfuncta_dist.fitting.whole_scans import locate_whole_scans
from medfuncta_dist.latents.table_format import latents_of
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore

TRAIN = "train"
MOST_CLASSES = 1000
"""Labels of more values are no classes: ages, or numbers of patients. The prior then has none."""
LARGEST = 8 * 2**30
"""Bytes of training latents, which every worker holds."""
COLUMNS = ("split", "labels", "latent", "window_low", "window_high", "spacing", "slice")


@dataclass(frozen=True)
class LatentSource:
    """A run's latent table. ``parts``: SHA-256 of those with training scans; ``digest`` covers them."""

    table: TableLocation
    parts: tuple[str, ...]
    held_out: tuple[str, ...]
    """The other splits that are fitted."""
    held_out_parts: tuple[str, ...]
    """SHA-256 of theirs: a prior is judged by them."""

    @property
    def digest(self) -> str:
        """Of the training latents."""
        return digest_json(list(self.parts))

    @property
    def network_digest(self) -> str:
        """Of the network that decodes them."""
        return self.table.network.digest


@dataclass(frozen=True)
class Appearance:
    """How a usual training scan is to be shown: medians over training scans."""

    window: tuple[float, float]
    spacing: tuple[float, ...]
    upright: bool


@dataclass(frozen=True, eq=False)
class SplitLatents:
    """Latents of some splits, in the order of their keys."""

    latents: Float[Tensor, "scan latent"]
    labels: Sequence[int | None]
    """The first label of each scan; None where it has none."""
    appearance: Appearance


def find_source(run: RunFile, store: ObjectStore) -> LatentSource:
    """The table as it is. StageOrderError before there is one; RunFileError where no training scan is fitted, none is
    held out, or the training latents are too many for a worker's memory."""
    table = locate_whole_scans(run, store, "a prior")
    commits = read_commits(store, table.folder)
    done = [commits[work.name] for work in cover(table.works, commits)[0]]
    fitted = [commit for commit in done if commit.part is not None and commit.rows]
    parts, others = (
        tuple(sorted(one.part.sha256 for one in fitted if (one.split == TRAIN) == wanted and one.part))
        for wanted in (True, False)
    )
    held_out = tuple(sorted({commit.split for commit in fitted} - {TRAIN}))
    if not parts or not held_out:
        missing = "training scan" if not parts else "held-out scan"
        raise RunFileError(
            f"no {missing} has a latent: a prior is trained on the split 'train' and judged by another one",
            where=store.uri(table.folder),
            do="fit them (fit.splits), or pack a data set with scans in both"
            if table.has_scans
            else "import a folder with files in both (import-latents), and let fit.splits be all or name both",
        )
    size = 4 * (run.fit.keep or run.field.latent) * sum(commit.rows for commit in fitted if commit.split == TRAIN)
    if size > LARGEST:
        what = f"the training latents take {size / 2**30:.1f} GiB, which every worker would hold"
        do = f"at most {LARGEST / 2**30:.0f} GiB are supported: store fewer numbers (fit.keep) in a run of its own"
        raise RunFileError(what, where=store.uri(table.folder), do=do)
    return LatentSource(table, parts, held_out, others)


def read_splits(store: ObjectStore, source: LatentSource, splits: Sequence[str]) -> SplitLatents:
    """The latents of these splits. IntegrityError where a part is not the committed one."""
    rows = load_table(store, source.table.folder, splits, COLUMNS, source.table.shards)
    labels = [first[0] if first else None for first in rows["labels"].to_pylist()]
    return SplitLatents(torch.from_numpy(latents_of(rows)), labels, _appearance(rows))


def _appearance(rows: pa.Table) -> Appearance:
    low, high = (float(np.median(rows[name].to_numpy())) for name in ("window_low", "window_high"))
    spacing = np.median(np.array(rows["spacing"].to_pylist(), np.float64), axis=0)
    return Appearance((low, high), tuple(map(float, spacing)), rows["slice"].null_count < rows.num_rows / 2)


@dataclass(frozen=True)
class Classes:
    """The labels that training scans have, in order, and how many scans have each; ``unlabelled`` have none."""

    labels: tuple[int, ...]
    counts: tuple[int, ...]
    unlabelled: int

    @classmethod
    def of(cls, labels: Sequence[int | None]) -> Classes:
        """Of a training split; without classes where labels have too many values to be any."""
        counts = Counter(label for label in labels if label is not None)
        if len(counts) > MOST_CLASSES:
            counts = Counter()
        known = tuple(sorted(counts))
        return cls(known, tuple(counts[label] for label in known), len(labels) - sum(counts.values()))

    @property
    def none(self) -> int:
        """The class of scans without a label."""
        return len(self.labels)

    def indices(self, labels: Sequence[int | None]) -> Int[Tensor, " scan"]:
        """The class of each scan; that of an unknown label is ``none``."""
        places = {label: place for place, label in enumerate(self.labels)}
        return torch.tensor([self.none if one is None else places.get(one, self.none) for one in labels])

    def label(self, index: int) -> int | None:
        """The label of a class."""
        return None if index == self.none else self.labels[index]

    def drawn(self, uniform: float) -> int:
        """A class, as often as training scans have it; ``uniform`` from 0 to 1."""
        shares = np.cumsum([*self.counts, self.unlabelled])
        return int(np.searchsorted(shares, uniform * shares[-1], side="right"))
