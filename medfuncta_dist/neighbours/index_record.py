"""What an index consists of in storage, and whether it is that of the present latent table.

runs/<run>/neighbours/<network16>-<fit16>/commits/<metric>.json    written last
runs/<run>/neighbours/<network16>-<fit16>/objects/<sha256>.*       what it names: indexes, keys and labels, the metric
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy

from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError, StageOrderError
from medfuncta_dist.fields import safe_tensors
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation
from medfuncta_dist.fitting.fit_plan import cover
from medfuncta_dist.latents.table_format import PartRef
from medfuncta_dist.neighbours.faiss_index import MAKE_AGAIN, REPLACE, Effort
from medfuncta_dist.neighbours.index_plan import FittedPart, IndexKind
from medfuncta_dist.neighbours.latent_metric import LatentMetric, MetricName
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.digest import digest_json, sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet
from medfuncta_dist.storage.promised import read_promised

KIND = "neighbours"
NAMES = re.compile(r"(plain|whitened|image)\.json")
"""Names of commit records: one index per metric."""
ROWS_VERSION, ROWS_KIND = "1", "medfuncta neighbours rows"
LARGEST_ROW = 2**16
"""Bytes of a row, decompressed: a key, and 4096 labels at most."""
ROWS = pa.schema(
    [pa.field("key", pa.string(), nullable=False), pa.field("labels", pa.list_(pa.int32()), nullable=False)],
    {"format_version": ROWS_VERSION, "kind": ROWS_KIND},
)
"""A row per vector of a block, in its order."""


@dataclass(frozen=True)
class Block:
    """Vectors of scans of one split, and their keys and labels."""

    split: str
    scans: int
    index: PartRef
    rows: PartRef


@dataclass(frozen=True)
class IndexRecord:
    """An index of all fitted scans under one metric."""

    metric: MetricName
    map: PartRef | None
    """The metric's map, where there is one."""
    table: str
    """Digest of the table that it was made from (``table_digest``)."""
    kind: IndexKind
    recipe: str
    """In the words of faiss's ``index_factory``."""
    coordinates: int
    scans: int
    lists: int
    candidates: int
    recall: float
    """Share of the ten nearest scans that a search finds, measured when the index was made; 1 where it is exact."""
    blocks: tuple[Block, ...]

    @property
    def effort(self) -> Effort:
        """With which a search reaches that recall."""
        return Effort(self.lists, self.candidates)

    @property
    def objects(self) -> list[PartRef]:
        """All that it names."""
        return [*([self.map] if self.map else []), *(ref for block in self.blocks for ref in (block.index, block.rows))]

    def body(self) -> dict[str, Any]:
        """As JSON objects."""
        return asdict(self) | {"blocks": [asdict(block) for block in self.blocks]}


def index_folder(latents: str) -> str:
    """Of the table in this folder: ``runs/<run>/neighbours/<network16>-<fit16>``."""
    run, _, table = latents.rpartition("/latents/")
    return f"{run}/neighbours/{table}"


def record_path(folder: str, metric: str) -> str:
    """Of the index's commit record."""
    return f"{folder}/commits/{metric}.json"


def fitted_parts(store: ObjectStore, target: TableLocation) -> list[FittedPart]:
    """The committed parts of the table. StageOrderError where nothing is fitted."""
    commits = latent_ledger.read_commits(store, target.folder)
    done, _ = cover(target.works, commits)
    found = [_fitted(commits[work.name]) for work in done if commits[work.name].part is not None]
    if not found:
        raise StageOrderError("there are no latents yet", where=store.uri(target.folder), do="run the fit stage first")
    return found


def _fitted(commit: latent_ledger.Commit) -> FittedPart:
    assert commit.part is not None
    return FittedPart(commit.split, commit.part, commit.rows)


def table_digest(parts: list[FittedPart]) -> str:
    """SHA-256 of what a table consists of: it changes when a scan comes, goes, or is fitted again otherwise."""
    return digest_json(sorted([one.split, one.part.sha256] for one in parts))


def read_index_record(store: ObjectStore, folder: str, metric: str) -> IndexRecord:
    """The record of a metric's index. StageOrderError where there is none."""
    try:
        return read_as(IndexRecord, store, record_path(folder, metric), KIND)
    except ObjectMissingError as error:
        raise StageOrderError(
            f"there is no index of these latents under the metric '{metric}'",
            where=store.uri(folder),
            do=f"make it: `medfuncta-dist index RUN.yaml --metric {metric}`",
        ) from error


def require_present(record: IndexRecord, parts: list[FittedPart], where: str) -> None:
    """StageOrderError unless the index was made from this very table."""
    if record.table != table_digest(parts):
        raise StageOrderError("the latent table has changed since this index was made", where=where, do=MAKE_AGAIN)


def write_object(store: ObjectStore, folder: str, data: bytes, suffix: str) -> PartRef:
    """Put bytes under their content address."""
    digest = sha256_bytes(data)
    path = f"objects/{digest}.{suffix}"
    store.write(f"{folder}/{path}", data)
    return PartRef(path, digest, len(data))


def read_object(store: ObjectStore, folder: str, ref: PartRef) -> bytes:
    """Bytes that a record names. IntegrityError where they are others, or missing."""
    where = f"{folder}/{ref.path}"
    data = read_promised(store, where, "an object of the index", REPLACE, limit=ref.size)
    if len(data) != ref.size or sha256_bytes(data) != ref.sha256:
        what = "an object of the index is not the one that was committed"
        raise IntegrityError(what, where=store.uri(where), do=REPLACE)
    return data


def write_tensors(store: ObjectStore, folder: str, tensors: Mapping[str, np.ndarray]) -> PartRef:
    """Named float32 arrays."""
    data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    return write_object(store, folder, data, "safetensors")


def read_tensors(store: ObjectStore, folder: str, ref: PartRef) -> dict[str, np.ndarray]:
    """The inverse."""
    data = read_object(store, folder, ref)
    try:
        return {name: tensor.numpy() for name, tensor in safe_tensors.load(data)[1].items()}
    except ValueError as error:
        raise IntegrityError(str(error), where=store.uri(f"{folder}/{ref.path}"), do=REPLACE) from error


def read_metric(store: ObjectStore, folder: str, metric: MetricName, ref: PartRef | None) -> LatentMetric:
    """A metric as an index has it."""
    return LatentMetric(metric, None if ref is None else read_tensors(store, folder, ref)["map"])


def read_rows(store: ObjectStore, folder: str, ref: PartRef) -> pa.Table:
    """Keys and labels of a block."""
    where = store.uri(f"{folder}/{ref.path}")
    file = parquet.open_parquet(read_object(store, folder, ref), where, row_bytes=LARGEST_ROW)
    metadata = file.schema_arrow.metadata or {}
    if (metadata.get(b"format_version"), metadata.get(b"kind")) != (ROWS_VERSION.encode(), ROWS_KIND.encode()):
        # `index` would find the index there already, and `verify --repair` keeps what another version wrote.
        what = f"not rows of an index of format_version {ROWS_VERSION}"
        raise FormatVersionError(
            what, where=where, do="use the version of medfuncta-dist that wrote it, or a newer one"
        )
    if not file.schema_arrow.equals(ROWS):
        raise IntegrityError("rows of an index with other columns than expected", where=where, do=REPLACE)
    return parquet.read(file, where)


def records_below(store: ObjectStore, run: str) -> Iterator[tuple[str, str]]:
    """(folder, metric) of every index of a run, those of its former tables included."""
    below = f"runs/{run}/{KIND}"
    for info in store.list(below):
        folder, _, name = info.path.rpartition("/commits/")
        if folder and NAMES.fullmatch(name):
            yield folder, name.removesuffix(".json")
