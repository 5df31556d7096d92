"""Whether a stage's input is complete, checked before submission by the rules that the stage itself starts with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import StageOrderError
from medfuncta_dist.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from medfuncta_dist.fitting.latent_ledger import Commit


def require_ready(run: RunFile, store: ObjectStore, stages: Sequence[str]) -> None:
    """StageOrderError (or RunFileError, for what would be refused anyway) unless the first of these stages can start.

    The others read what the stages before them in the same job write; but the network that training starts from is
    another run's.
    """
    from medfuncta_dist.network.start_network import check_start
    from medfuncta_dist.stages.preflight import (
        check_latents,
        check_network,
        check_snapshot,
        check_training,
        packed_snapshot,
    )

    if "train" in stages:
        check_start(run, store)
    first = stages[0]
    if first == "pack":
        return
    if first == "prior":
        check_latents(run, store)
        return require_fitted(run, store)
    snapshot = packed_snapshot(run, store)
    if first == "train":
        return check_training(run, snapshot)
    check_snapshot(run, snapshot)
    check_network(run, store)
    if first == "evaluate":
        require_fitted(run, store)


def is_complete(run: RunFile, store: ObjectStore, stage: str) -> bool:
    """Whether a stage's outputs are all there. New scans in the archive do not count."""
    from medfuncta_dist.network.committed_network import require_all_steps
    from medfuncta_dist.shards.snapshot import newest_snapshot

    if stage == "pack":
        return newest_snapshot(store, run.dataset) is not None
    try:
        if stage == "train":
            require_all_steps(run, store)
        elif stage == "prior":
            return _has_prior(run, store)
        else:
            return _is_fitted(run, store)
    except StageOrderError:
        return False
    return True


def require_fitted(run: RunFile, store: ObjectStore) -> None:
    """StageOrderError where a scan has no latent yet; IntegrityError where latents are missing from storage."""
    from medfuncta_dist.fitting.latent_ledger import require_parts

    require_parts(store, *_fitted(run, store))


def _has_prior(run: RunFile, store: ObjectStore) -> bool:
    """Whether the run's prior is the one that its settings and its latents give."""
    from medfuncta_dist.prior.prior_driver import identity_of
    from medfuncta_dist.prior.prior_files import committed_prior
    from medfuncta_dist.prior.prior_latents import find_source

    done = committed_prior(store, run.name)
    return done is not None and done.identity == identity_of(run, find_source(run, store))


def _is_fitted(run: RunFile, store: ObjectStore) -> bool:
    from medfuncta_dist.fitting.latent_ledger import missing_parts

    return not missing_parts(store, *_fitted(run, store))


def _fitted(run: RunFile, store: ObjectStore) -> tuple[str, list[Commit]]:
    """The latent table's folder and its commits. StageOrderError where a scan has none."""
    from medfuncta_dist.fitting.fit_driver import locate_table
    from medfuncta_dist.fitting.fit_plan import cover
    from medfuncta_dist.fitting.latent_ledger import read_commits, settled

    table = locate_table(run, store)
    commits = read_commits(store, table.folder)
    done, left = cover(table.works, settled(commits))
    if left:
        units = sum(work.units for work in left)
        raise StageOrderError(
            f"{units} {'scans' if table.units is None else 'patches'} have no latent yet",
            where=store.uri(table.folder),
            do="run the fit stage first",
        )
    return table.folder, [commits[work.name] for work in done]
