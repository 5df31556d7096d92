"""For what works with one latent per scan, and not yet with scans that are grids of patches."""

from __future__ import annotations

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting.fit_driver import TableLocation, locate_table
from medfuncta_dist.storage.object_store import ObjectStore


def require_whole_scans(run: RunFile, what: str) -> None:
    """RunFileError where the run's scans are grids of patches. ``what`` names what is asked for."""
    if run.data.patches is not None:
        raise RunFileError(
            f"{what} needs one latent per scan, and the scans of this run are grids of patches",
            where="data.patches",
            do="give a run without patches, with a data set of its own (data.dataset); pack, train, fit, status, "
            "verify, forget and decode take patches",
        )


def locate_whole_scans(run: RunFile, store: ObjectStore, what: str) -> TableLocation:
    """``locate_table``, of a run whose scans have one latent each."""
    require_whole_scans(run, what)
    return locate_table(run, store)
