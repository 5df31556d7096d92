"""A run held by one command that writes into it, as a stage holds it: alone, with its run file frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.frozen_run_file import freeze, require_writable, thaw
from medfuncta_dist.storage.leases.lease import Fence, run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.scratch import remove_leftovers_once


@dataclass(frozen=True)
class HeldRun:
    """The resolved run file, its storage, and the proof that nobody else writes into the run."""

    run: RunFile
    store: ObjectStore
    fence: Fence


@contextmanager
def hold_run(run: RunFile) -> Iterator[HeldRun]:
    """Hold the run while the block works.

    RunHeldError while another driver holds it, RunChangedError where its run file was another. A run file that is
    refused before anything was done by it is not kept.
    """
    remove_leftovers_once()
    store = ObjectStore(run.storage)
    require_writable(store, run.name)
    with hold_lease(store, run_lease(run.name), run.cluster.lease_seconds, run.name) as fence:
        run, first = freeze(run, store, fence)
        try:
            yield HeldRun(run, store, fence)
        except RunFileError:
            if first:
                thaw(run, store, fence)
            raise
