"""The tables of curved latents in storage: an object beside the parts, under its content address, which every part
names; and the coder that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.latents.curved.curved_tables import CurvedTables
from medfuncta_dist.latents.curved.row_coder import RowCoder
from medfuncta_dist.storage.digest import sha256_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import REPAIR, read_promised

LARGEST_TABLES = 2**32
"""Bytes: M of a latent of 32 768 numbers."""
KEPT = 2
"""Tables that a process keeps."""
FIT_AGAIN = f"{REPAIR}: without its tables no latent of this table can be read, and all of its scans are fitted again"


@dataclass(frozen=True, eq=False)
class OpenTables:
    """Tables, under their SHA-256, with their coder."""

    digest: str
    tables: CurvedTables
    coder: RowCoder
    size: int
    """Bytes in storage."""

    def streams(self, symbols: Int[np.ndarray, "scan symbol"]) -> list[bytes]:
        """A stream for each scan."""
        return self.coder.encode(symbols)

    def latents(self, streams: list[bytes], where: str = "") -> Float[np.ndarray, "scan latent"]:
        """The latents of these streams, float32. IntegrityError for a stream that is none."""
        return self.tables.latents(self.coder.decode(streams, where))


def path_of(folder: str, digest: str) -> str:
    """Where the tables of a latent table are; ``folder``: the latent table's."""
    return f"{folder}/curved/{digest}.safetensors"


def write_tables(store: ObjectStore, folder: str, data: bytes) -> str:
    """Store tables (``CurvedTables.to_bytes``); their SHA-256."""
    digest = sha256_bytes(data)
    store.write(path_of(folder, digest), data)
    return digest


def are_whole(store: ObjectStore, folder: str, digest: str) -> bool:
    """Whether tables are in storage as they were written."""
    try:
        return sha256_bytes(store.read(path_of(folder, digest), limit=LARGEST_TABLES)) == digest
    except (IntegrityError, ObjectMissingError):
        return False


def open_tables(store: ObjectStore, folder: str, digest: str) -> OpenTables:
    """The tables that a part or a record names, read once per process.

    MedfunctaError without constriction; LostObjectError where they are missing, IntegrityError where they are others.
    """
    return _opened(store.root, path_of(folder, digest), digest)


@lru_cache(maxsize=KEPT)
def _opened(root: str, path: str, digest: str) -> OpenTables:
    store = ObjectStore(root)
    where = store.uri(path)
    data = read_promised(store, path, "the tables of curved latents", FIT_AGAIN, limit=LARGEST_TABLES)
    if sha256_bytes(data) != digest:
        raise IntegrityError("the tables of curved latents are not those that were written", where=where, do=FIT_AGAIN)
    tables = CurvedTables.from_bytes(data, where)
    return OpenTables(digest, tables, RowCoder(tables, where), len(data))
