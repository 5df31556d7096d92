"""Which latent table is meant: by a run file, by the URI of a run, or by the URI of a table's folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from medfuncta_dist.config import load
from medfuncta_dist.config.kept_run_file import read_kept
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.fields.network_record import network_folder
from medfuncta_dist.fields.shared_network import DESCRIPTION_FILE, WEIGHTS_FILE
from medfuncta_dist.fitting.fit_driver import TableLocation, locate_table
from medfuncta_dist.network.committed_network import NetworkRef
from medfuncta_dist.storage.object_store import ObjectStore

RUN_URI = re.compile(r"(?P<root>.+)/runs/(?P<run>[^/]+)(?:/latents/(?P<table>[0-9a-f]{16}-[0-9a-f]{16}))?/*")
"""Of a run below its storage root, or of the folder of one of its latent tables."""

Source = RunFile | str | Path
"""A run file as an object or a path, the URI of a run, or of a table's folder; a local folder's path is a URI, too."""


@dataclass(frozen=True)
class OpenedTable:
    """Where a table is, and what belongs to it."""

    store: ObjectStore
    folder: str
    network: NetworkRef
    shards: frozenset[str]
    """SHA-256 of the shards whose scans belong to it."""
    shape: tuple[int, ...]
    """Points per axis of the scans as packed; of a patch, where they are grids of patches."""


def locate(source: Source) -> OpenedTable:
    """The table that is meant.

    Raises:
        RunFileError: the run file is invalid, or this is the URI of neither run nor table.
        StageOrderError: its data set or its network is not complete.
        IntegrityError: what the run has kept is damaged.
    """
    match = None if isinstance(source, RunFile) else RUN_URI.fullmatch(str(source))
    if match is None or str(source).endswith((".yaml", ".yml")):
        run = source if isinstance(source, RunFile) else load.load(source)
        return _of_run(ObjectStore(run.storage), run)
    store = ObjectStore(match["root"])
    run = _kept(store, match["run"])
    folder = match["table"] and f"runs/{match['run']}/latents/{match['table']}"
    found = _of_run(store, run)
    if folder in (None, found.folder):
        return found
    return OpenedTable(store, folder, _network_of(store, match["run"], match["table"]), found.shards, found.shape)


def _of_run(store: ObjectStore, run: RunFile) -> OpenedTable:
    location: TableLocation = locate_table(run, store)
    shape = tuple(location.snapshot.contract["shape"] if location.grids is None else location.grids.size)
    return OpenedTable(store, location.folder, location.network, frozenset(location.shards), shape)


def _kept(store: ObjectStore, name: str) -> RunFile:
    """The run's frozen run file. Its root may be mounted or copied elsewhere than where the run wrote it."""
    run = read_kept(store, name)
    if run is None:
        do = "give a run file, or the URI of a run: <storage>/runs/<name>"
        raise RunFileError("there is no run here", where=store.uri(f"runs/{name}"), do=do)
    return run.model_copy(update={"storage": store.root})


def _network_of(store: ObjectStore, run: str, table: str) -> NetworkRef:
    """The network of a table that is not the run's present one: the beginning of its digest is in the table's name."""
    folder = network_folder(run)
    found = [name for name in store.folders(folder) if name.startswith(table[:16])]
    if len(found) != 1:
        what = "the network that these latents belong to is gone"
        raise IntegrityError(what, where=store.uri(f"{folder}/{table[:16]}…"), do="restore it from a backup")
    weights, description = (f"{folder}/{found[0]}/{name}" for name in (WEIGHTS_FILE, DESCRIPTION_FILE))
    return NetworkRef(weights, description, found[0])
