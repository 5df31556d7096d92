"""A run's latent table, opened lazily: what it holds is read when it is asked for, and only that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.coordinates import Region
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.latent_table.catalogue.catalogue_format import PATCHED
from medfuncta_dist.latent_table.catalogue.catalogue_reader import Entry
from medfuncta_dist.latent_table.catalogue.catalogue_store import open_catalogue
from medfuncta_dist.latent_table.decoded_values import decode_latents
from medfuncta_dist.latent_table.part_reads import PartRead, PartSource
from medfuncta_dist.latent_table.patched_field import PatchedField, decode_fields
from medfuncta_dist.latent_table.patched_scans import PatchedScans
from medfuncta_dist.latent_table.scan_filter import Labels, ScanFilter
from medfuncta_dist.latent_table.scan_list import ListedScans, ScanList
from medfuncta_dist.latent_table.table_location import OpenedTable, Source, locate
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.patch_format import patch_rows
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.patches.patch_grid import PatchGrid

if TYPE_CHECKING:
    import datasets
    import pandas
    import ray.data

    from medfuncta_dist.latent_table.torch_latents import TorchLatents

LISTED = ("key", "split", "labels", "psnr", "below_min")
"""Columns that the catalogue has: none of them needs the parts."""


class LatentTable:
    """The latents of a run, one row per scan, sorted by key. Rows below ``fit.min_psnr`` are in it, and flagged.

    Opening it reads a listing and one record. Lengths, splits, labels, PSNR and keys come from the table's catalogue;
    latents from its parts, each verified against its commit record.

    Examples:
        >>> table = LatentTable.open("my-xrays.yaml").filter(splits="test")
        >>> table.numpy().shape == (len(table), table.network.spec.latent)
        True
        >>> table.decode(table.keys[:2], shape=(64, 64), region=[(0, 32), (16, 48)]).shape
        (2, 1, 32, 32)
        >>> table.find(table.keys[0][:12]).split
        'test'
        >>> loader = torch.utils.data.DataLoader(table.torch_dataset(), batch_size=4)
        >>> next(iter(loader))["latent"].shape == (4, table.network.spec.latent)
        True
    """

    def __init__(self, location: OpenedTable, scans: ScanList, storage: Storage, source: PartSource) -> None:
        """Of ``at``, which finds these four."""
        self._location, self._scans, self._source = location, scans, source
        grid = scans.grid
        self._patches = None if grid is None else PatchedScans(scans, source, grid)
        self.storage = storage
        """Type and length of the latents as they are stored."""

    @classmethod
    def open(
        cls, source: Source, splits: str | Collection[str] | None = None, labels: Labels | None = None
    ) -> LatentTable:
        """Open the table of a run.

        Args:
            source: a run file (an object or a path), the URI of a run (``<storage>/runs/<name>``), or that of the
                folder of one of its tables (``<storage>/runs/<name>/latents/<network>-<fit>``). A local path is a URI,
                too.
            splits: only these, as ``filter`` takes them; so are ``labels``.

        Raises:
            RunFileError: the run file is invalid, or there is no run at this URI.
            StageOrderError: nothing is fitted yet.
            IntegrityError: something of the table is not what was committed, or is missing.
        """
        return cls.at(locate(source)).filter(splits, labels)

    @classmethod
    def at(cls, location: OpenedTable) -> LatentTable:
        """The same of a table that is already located."""
        catalogue = open_catalogue(location.store, location.folder, location.shards)
        parts = PartSource(location.store, location.folder, catalogue.record.parts)
        return cls(location, ScanList(ListedScans(catalogue), ScanFilter()), catalogue.record.storage, parts)

    def filter(self, splits: str | Collection[str] | None = None, labels: Labels | None = None) -> LatentTable:
        """The table of fewer scans. What was read is shared with this one; nothing is copied.

        Args:
            splits: a name, or several of which a scan has one.
            labels: a value, or several, of a scan's first label; by place, as ``{1: [0, 2]}``, of others.

        Examples:
            >>> table = LatentTable.open("my-xrays.yaml")
            >>> len(table.filter(splits=["train", "test"])) == len(table)
            True
            >>> set(label[0] for label in table.filter(labels=[0, 1]).labels) <= {0, 1}
            True
        """
        scans = self._scans.filtered(self._scans.filter.with_also(splits, labels))
        return LatentTable(self._location, scans, self.storage, self._source)

    def __len__(self) -> int:
        return len(self._scans)

    def __repr__(self) -> str:
        stored = f"{self.storage.numbers} {self.storage.storage_type} numbers"
        return f"LatentTable({self._location.store.uri(self._location.folder)!r}, {len(self)} scans of {stored})"

    # -- What the catalogue says -------------------------------------------------------------------------------------

    @property
    def keys(self) -> list[str]:
        """Of the scans: keyed hashes, which only the owner's private mapping turns back into files."""
        return list(self._scans.keys.to_pylist())

    @property
    def splits(self) -> list[str]:
        """The split of each scan."""
        return list(self._scans.narrow["split"].to_pylist())

    @property
    def labels(self) -> list[list[int]]:
        """The labels of each scan; an empty list where its source gives none."""
        return list(self._scans.narrow["labels"].to_pylist())

    @property
    def psnr(self) -> Float[np.ndarray, " scan"]:
        """Of the stored latents, in dB."""
        return np.asarray(self._scans.narrow["psnr"].to_numpy())

    @property
    def below_min(self) -> Bool[np.ndarray, " scan"]:
        """Whether a scan is reconstructed worse than ``fit.min_psnr``."""
        return np.asarray(self._scans.narrow["below_min"].to_numpy())

    def listing(self) -> pa.Table:
        """Key, split, labels, psnr and below_min of every scan, without its latent; of a grid of patches also their
        number, and PSNR and number of the worst one."""
        narrow = self._scans.narrow
        names = LISTED[1:] if self._patches is None else (*LISTED[1:], *PATCHED)
        return pa.table({"key": self._scans.keys, **{name: narrow[name] for name in names}})

    def find(self, key: str) -> Entry:
        """One scan, by its key or by a beginning of it (8 digits or more) that no other key has.

        One ranged read, however many scans there are. RunFileError where no scan of this table has it.
        """
        return self._scans.find(key)

    def is_quarantined(self, key: str) -> bool:
        """Whether a scan of this key, or of one that begins so, has no latent because it could not be fitted.

        Reads all of the table's commit records.
        """
        commits = latent_ledger.read_commits(self._location.store, self._location.folder).values()
        return any(q.key.startswith(key) for c in commits if c.shard in self._location.shards for q in c.quarantined)

    # -- Latents -----------------------------------------------------------------------------------------------------

    @cached_property
    def network(self) -> SharedNetwork:
        """The network that decodes these latents, on the CPU."""
        return load_network(self._location.store, self._location.network)

    @property
    def shape(self) -> tuple[int, ...]:
        """Points per axis of the scans as packed; with ``data.patches``, of a patch."""
        return self._location.shape

    def numpy(self) -> Float[np.ndarray, "scan latent"]:
        """All latents in float32, whatever type they are stored in, in the order of ``keys``."""
        return self._source.latents(self._reads(), len(self._scans.latents.rows), self.storage.numbers)

    @cached_property
    def latents(self) -> Float[np.ndarray, "scan latent"]:
        """The same, kept."""
        return self.numpy()

    @cached_property
    def rows(self) -> pa.Table:
        """Every column as it is stored (docs/formats.md): key, split, labels, latent, psnr, spacing, affine ...;
        curved latents in float32."""
        if self._patches is not None:
            tables = list(self._source.tables(self._reads()))
            nothing = patch_rows.schema(self.storage.numbers, self.storage.storage_type, {}).empty_table()
            return pa.concat_tables(tables).combine_chunks() if tables else nothing
        if not len(self):
            return table_format.schema(self.storage.numbers, self.storage.read_type, {}).empty_table()
        return table_format.sort_by_key(list(self._source.tables(self._reads())))

    def row(self, key: str) -> pa.Table:
        """The same of one scan; only the part that holds it is read. RunFileError as ``find`` raises it."""
        if self._patches is not None:
            return self._patches.facts(key)
        entry = self.find(key)
        (read,) = self._source.reads(np.array([entry.part]), np.array([entry.row]))
        return self._source.table(read)

    def decode(
        self,
        keys: str | Sequence[str],
        shape: Sequence[int] | None = None,
        region: Region | None = None,
        device: str = "cpu",
    ) -> Float[np.ndarray, "scan channel *space"]:
        """Scans from their latents, float32 values in [0, 1].

        Args:
            keys: of the scans; one, or several, decoded together.
            shape: points per axis over the whole field of view. None: as packed.
            region: only these points of ``shape`` are computed: per axis a slice or (start, stop), None for all of it.
                Of a grid of patches, only those that it touches are read.
            device: where to compute: ``"cpu"``, ``"cuda"`` or another of torch's names.

        Raises:
            RunFileError: a key that no scan of this table has, a region that is not in ``shape``, or more values than
                one call can give.
            MedfunctaError: torch cannot use the device.

        Examples:
            >>> table = LatentTable.open("my-xrays.yaml")
            >>> table.decode(table.keys[:3], shape=(32, 32)).shape
            (3, 1, 32, 32)
        """
        asked = [keys] if isinstance(keys, str) else list(keys)
        if self._patches is not None and asked:
            return decode_fields([self.patched_field(key, device) for key in asked], shape, region)
        parts, rows = self._scans.places_of(asked)
        latents = self._source.latents(self._source.reads(parts, rows), len(asked), self.storage.numbers)
        return decode_latents(self.network, latents, tuple(shape or self.shape), region, device)

    # -- Patches -----------------------------------------------------------------------------------------------------

    @property
    def is_patched(self) -> bool:
        """Whether its scans are grids of patches, each with a latent of its own."""
        return self._patches is not None

    def patches(self, key: str) -> PatchGrid:
        """Where the patches of a scan lie, in points of the scan. RunFileError as from ``find``, and in a table without
        patches."""
        return self._patched("grid").grid(key)

    def patch_latents(self, key: str, numbers: Sequence[int] | None = None) -> Float[np.ndarray, "patch latent"]:
        """The latents of these patches of a scan, in the order given, float32; None for all.

        Only the row groups that hold them are read. RunFileError as from ``patches``, and for a patch that there is
        not.
        """
        return self._patched("latents of patches").latents(key, numbers, self.storage.numbers)

    def patched_field(self, key: str, device: str = "cpu") -> PatchedField:
        """A scan of patches as a function of position, to be decoded slab by slab: larger than memory, too.

        RunFileError as from ``patches``.
        """
        return PatchedField(self.network, self.patches(key), lambda numbers: self.patch_latents(key, numbers), device)

    # -- For other libraries -----------------------------------------------------------------------------------------

    def arrow(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Batches of a few thousand rows at most, read as they are taken. ``latent`` is float32.

        Rows come in the order of storage, so that each part is read once. ``columns`` None: all.

        Examples:
            >>> reader = LatentTable.open("my-xrays.yaml").arrow(["key", "latent"])
            >>> reader.schema.names
            ['key', 'latent']
        """
        from medfuncta_dist.latent_table.arrow_batches import batch_reader

        return batch_reader(self._source, self._reads(), self.storage, columns)

    def torch_dataset(self, label: int = 0) -> TorchLatents:
        """A map-style Dataset: items have ``latent`` (float32), ``label`` and ``place``, the scan's place in ``keys``.

        ``label``: which of a scan's labels; -1 is what a scan without one gets.

        It can be pickled, and serves any number of DataLoader workers, each with its own open files: a part is copied
        once to a temporary folder of this machine, without compression, and read from there in any order.

        Examples:
            >>> dataset = LatentTable.open("my-xrays.yaml").torch_dataset()
            >>> loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
            >>> sorted(next(iter(loader)))
            ['label', 'latent', 'place']
        """
        from medfuncta_dist.latent_table.torch_latents import TorchLatents

        return TorchLatents(self._source, self._scans, self.storage, label)

    def pandas(self, latents: bool = False) -> pandas.DataFrame:
        """A DataFrame with the key as its index; ``latents``: with a column of arrays, views of one array of them all.

        Examples:
            >>> frame = LatentTable.open("my-xrays.yaml").pandas()
            >>> list(frame.columns)
            ['split', 'labels', 'psnr', 'below_min']
        """
        if latents:
            self._require_whole("they have several latents each", "use arrow or numpy, which give a row per patch")
        frame = self.listing().to_pandas().set_index("key")
        if latents:
            frame["latent"] = list(self.latents)
        return frame

    def ray_dataset(self, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """A Ray Dataset, whose tasks read the parts where they run; rows and columns as ``arrow`` gives them."""
        from medfuncta_dist.latent_table.ray_latents import ray_dataset

        return ray_dataset(self._source, self._reads(), self.storage, columns)

    def hugging_face(self, columns: Sequence[str] = ("key", "split", "labels", "latent")) -> datasets.IterableDataset:
        """A streamed data set of the library ``datasets`` (extra ``huggingface``), a shard per part.

        DataLoader workers share its shards out; rows and columns are as ``arrow`` gives them.
        """
        from medfuncta_dist.latent_table.hugging_face import iterable_dataset

        return iterable_dataset(self._source, self._reads(), self.storage, columns)

    def _reads(self) -> list[PartRead]:
        return self._source.reads(self._scans.latents.parts, self._scans.latents.rows)

    def _patched(self, what: str) -> PatchedScans:
        if self._patches is None:
            do = "give the run data.patches, or use decode and row, which a scan without patches has"
            raise RunFileError(f"the scans of this table have no patches, so no {what}", where="LatentTable", do=do)
        return self._patches

    def _require_whole(self, what: str, do: str) -> None:
        if self._patches is not None:
            raise RunFileError(f"scans of this table are grids of patches: {what}", where="LatentTable", do=do)
