"""Priors that were trained on forgotten scans: they go whole, with their checkpoints. A prior may show what it was
trained on, and, unlike a shared network, it is made again in minutes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.forget.affected_runs import AffectedRun
from medfuncta_dist.forget.carried_latents import HeldLatents
from medfuncta_dist.prior.prior_files import committed_prior, prior_folder, record_path
from medfuncta_dist.storage.object_store import ObjectStore


def priors_of(
    store: ObjectStore, runs: Iterable[AffectedRun], latents: Iterable[tuple[AffectedRun, HeldLatents]]
) -> Iterator[str]:
    """The objects of priors that go, the commit record of each first: of runs that hold latents of the scans, and of
    those of which nobody can tell."""
    held = {run.name for run, table in latents if table.commits}
    for run in runs:
        paths = [info.path for info in store.list(prior_folder(run.name))]
        if paths and (run.name in held or not _is_whole(store, run.name)):
            record = record_path(run.name)
            yield from ([record] if record in paths else [])
            yield from (path for path in paths if path != record)


def _is_whole(store: ObjectStore, run: str) -> bool:
    """Whether all parts that the run's prior was trained on are still there: then none of the forgotten scans, of which
    the run holds no latent, was among them."""
    try:
        done = committed_prior(store, run)
    except (IntegrityError, FormatVersionError):
        return False
    if done is None:
        return False
    there: Collection[str] = {
        info.path.rpartition("/")[2].removesuffix(".parquet") for info in store.list(f"runs/{run}/latents")
    }
    return set(done.parts) <= set(there)
