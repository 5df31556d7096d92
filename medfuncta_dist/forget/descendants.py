"""Which runs were started from the network of another, in any number of steps: by what their run files say, and by the
digests of the networks, which also tell where a folder was moved, linked or copied."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.section import NAME
from medfuncta_dist.errors import FormatVersionError, IntegrityError, ObjectMissingError
from medfuncta_dist.fields.network_record import RECORD_FILE, network_folder
from medfuncta_dist.forget.affected_runs import kept_file
from medfuncta_dist.network.start_record import KIND, start_folder
from medfuncta_dist.storage.commit_record import read_record
from medfuncta_dist.storage.object_store import ObjectStore

NETWORK = "network"
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Kin:
    """What a run tells of its origin. Digests are of networks."""

    parent: str | None
    """Name of the run that its run file names as its start, if that is in this storage."""
    starts: frozenset[str]
    networks: frozenset[str]
    unsure: bool
    """It has a network to start from, and nobody can tell whose."""


def with_descendants(store: ObjectStore, runs: Collection[str]) -> list[str]:
    """These runs, and all in this storage that were started from one of them (``train.start_from``), or may have been
    because their records cannot be read."""
    if not runs:
        return []
    kin = {name: _kin(store, name, paths) for name, paths in _paths_by_run(store).items()}
    found = {*runs, *(name for name, one in kin.items() if one.unsure)}
    while more := _started_from(kin, found) - found:
        found |= more
    return sorted(found)


def _started_from(kin: Mapping[str, Kin], found: Collection[str]) -> set[str]:
    """The runs that were started from one of ``found``. Pure."""
    named = {name for name, one in kin.items() if one.parent in found}
    # What these began with is such a network even where the run that it is from has been deleted.
    digests = _all(one.networks for name, one in kin.items() if name in found) | _all(kin[n].starts for n in named)
    return named | {name for name, one in kin.items() if one.starts & digests}


def _all(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


def _paths_by_run(store: ObjectStore) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for info in store.list("runs"):
        if info.path.count("/") > 1:
            found.setdefault(info.path.split("/")[1], []).append(info.path)
    return found


def _kin(store: ObjectStore, name: str, paths: Sequence[str]) -> Kin:
    file, start, network = kept_file(store, name), start_folder(name), network_folder(name)
    taken, done = _body(store, start, KIND, paths), _body(store, network, NETWORK, paths)
    starts = _texts([*_folders(start, paths), taken.get("digest"), done.get("started_from")])
    networks = _texts([*_folders(network, paths), done.get("digest")])
    has_start = any(path.startswith(f"{start}/") for path in paths)
    named = None if file is None else file.train.start_from
    return Kin(_run_at(store.root, named), starts, networks, has_start and (file is None or not starts))


def _body(store: ObjectStore, folder: str, kind: str, paths: Sequence[str]) -> Mapping[str, Any]:
    """Of a folder's record; empty where there is none, or a damaged one: the folder's own digests remain."""
    path = f"{folder}/{RECORD_FILE}"
    try:
        return read_record(store, path, kind) if path in paths else {}
    except (ObjectMissingError, IntegrityError, FormatVersionError):
        return {}


def _folders(folder: str, paths: Sequence[str]) -> set[str]:
    """The digests among the folders in a folder: a network's two files lie under its digest."""
    below = [path.removeprefix(f"{folder}/").split("/") for path in paths if path.startswith(f"{folder}/")]
    return {parts[0] for parts in below if len(parts) > 1 and DIGEST.fullmatch(parts[0])}


def _texts(values: Iterable[Any]) -> frozenset[str]:
    return frozenset(value for value in values if isinstance(value, str))


def _run_at(root: str, named: str | None) -> str | None:
    """The run that a ``train.start_from`` names, if it is below this root, by whatever path."""
    if named is None or NAME.fullmatch(named):
        return named
    below, place = f"{_real(root)}/runs/", _real(named)
    return place.removeprefix(below).split("/")[0] if place.startswith(below) else None


def _real(uri: str) -> str:
    """A local folder without links and ``..``; any other location as it is."""
    return (uri if uri.startswith("s3://") else os.path.realpath(uri)).rstrip("/")
