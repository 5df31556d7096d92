"""A small latent table, and its catalogue as it lies in storage: fixtures for the conftest.py of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting.fit_driver import TableLocation, fit, locate_table
from medfuncta_dist.latent_table.catalogue.catalogue_store import catalogue_objects
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import ready


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    """Packed, with a network, and fitted."""
    run = ready(tmp_path)
    fit(run, map_here)
    return run


@pytest.fixture
def store(run: RunFile) -> ObjectStore:
    """Its storage."""
    return ObjectStore(run.storage)


@pytest.fixture
def table(run: RunFile, store: ObjectStore) -> TableLocation:
    """Its table; no catalogue is written yet."""
    return locate_table(run, store)


def stored(store: ObjectStore, table: TableLocation) -> dict[str, bytes]:
    """All objects of the catalogue."""
    return {path: store.read(path) for path in catalogue_objects(store, table.folder)}
