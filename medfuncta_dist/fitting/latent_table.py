"""A run's latent table for people: every committed part, verified, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from medfuncta_dist.config import load
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting.fit_driver import locate_table
from medfuncta_dist.fitting.latent_ledger import load_table
from medfuncta_dist.latents.table import latents_of
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.storage.object_store import ObjectStore


@dataclass(frozen=True, eq=False)
class LatentTable:
    """One row per scan, sorted by key. Rows below ``fit.min_psnr`` are in it, and flagged.

    Examples:
        >>> table = LatentTable.open("my-xrays.yaml", splits=["test"])
        >>> table.latents.shape == (len(table), table.network.spec.latent)
        True
        >>> values = table.network.decode(torch.from_numpy(table.latents), shape=(64, 64))
        >>> values.shape[1:]
        torch.Size([1, 64, 64])
    """

    rows: pa.Table
    """Every column that is stored (docs/formats.md): key, split, labels, latent, psnr, spacing, affine ..."""
    network: SharedNetwork
    """The network that decodes these latents, on the CPU."""

    @classmethod
    def open(cls, run: RunFile | str | Path, splits: Sequence[str] | None = None) -> LatentTable:
        """The table of a run, by its run file (an object or a path); of the named splits, None for all.

        Raises:
            RunFileError: the run file is invalid.
            StageOrderError: nothing is fitted yet.
            IntegrityError: a part, or the network, is not the one that was committed.
        """
        run = run if isinstance(run, RunFile) else load.load(run)
        store = ObjectStore(run.storage)
        location = locate_table(run, store)
        rows = load_table(store, location.folder, splits, shards=location.shards)
        return cls(rows, load_network(store, location.network))

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @cached_property
    def latents(self) -> Float[np.ndarray, "scan latent"]:
        """Float32, whatever type they are stored in."""
        return latents_of(self.rows)

    @cached_property
    def psnr(self) -> Float[np.ndarray, " scan"]:
        """Of the stored latents, in dB."""
        return np.asarray(self.rows["psnr"].to_numpy())

    @cached_property
    def below_min(self) -> Bool[np.ndarray, " scan"]:
        """Whether a scan is reconstructed worse than ``fit.min_psnr``."""
        return np.asarray(self.rows["below_min"].to_numpy())

    @property
    def keys(self) -> list[str]:
        """Of the scans: keyed hashes, which only the owner's private mapping turns back into files."""
        return list(self.rows["key"].to_pylist())

    @property
    def splits(self) -> list[str]:
        """The split of each scan."""
        return list(self.rows["split"].to_pylist())

    @property
    def labels(self) -> list[list[int]]:
        """The labels of each scan; an empty list where its source gives none."""
        return list(self.rows["labels"].to_pylist())
