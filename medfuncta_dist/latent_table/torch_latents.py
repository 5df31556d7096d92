"""The chosen scans as a map-style data set of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from medfuncta_dist.latent_table.local_latents import LocalLatents
from medfuncta_dist.latent_table.part_reads import PartSource
from medfuncta_dist.latent_table.scan_filter import labels_at
from medfuncta_dist.latent_table.scan_list import ScanList
from medfuncta_dist.latents.table_format import Storage

Item = dict[str, Any]


class TorchLatents(Dataset[Item]):
    """Items: ``latent`` (float32, P numbers), ``label`` (-1 for none), ``place`` (the scan's in the table's keys). An
    item is a scan, or a patch of one.

    A DataLoader asks for a batch at a time, which is read together. What travels to its workers is 24 bytes per item.
    """

    def __init__(self, source: PartSource, scans: ScanList, storage: Storage, label: int) -> None:
        """``label``: which of a scan's labels."""
        self._latents = LocalLatents(source, storage)
        self._parts, self._rows, self._scans = scans.latents
        self.labels = torch.from_numpy(labels_at(scans.narrow["labels"], label)[0][self._scans])
        """The label of every item."""

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, place: int) -> Item:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.__getitems__([place % len(self)])[0]

    def __getitems__(self, places: Sequence[int]) -> list[Item]:
        """Several items, read together."""
        batch = self.batch(places)
        # Numbers, not tensors of one: they are collated in a tenth of the time.
        columns = batch["latent"].unbind(), batch["label"].tolist(), batch["place"].tolist()
        return [{"latent": z, "label": label, "place": at} for z, label, at in zip(*columns, strict=True)]

    def batch(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """The same as one tensor each, as a collated batch has them: for programs that draw their own batches."""
        at = np.asarray(places, np.int64)
        latents = torch.from_numpy(self._latents.rows(self._parts[at], self._rows[at]))
        scans = torch.from_numpy(self._scans[at])
        return {"latent": latents, "label": self.labels[torch.from_numpy(at)], "place": scans}
