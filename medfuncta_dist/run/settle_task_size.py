"""How many scans a fit task gets where the run file leaves it open: measured before the run's first fitting, and kept
in its run.yaml, so that a resumed run, and whoever reads its latents, cuts the same ranges."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.fit_section import OPEN_SCANS_PER_TASK
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation, locate_table, task_of
from medfuncta_dist.fitting.fit_plan import FitWork, cut_before
from medfuncta_dist.fitting.patched.stored_units import stored_units
from medfuncta_dist.fitting.task_size import LEAST_SECONDS, PART_BYTES, PATCH_PART_BYTES, Limits, scans_per_task
from medfuncta_dist.fitting.trial_fit import trial_fit
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.network.core_settings import stored_settings
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.run.fan_outs import compute_fan_out
from medfuncta_dist.run.frozen_run_file import begun_with, run_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard, publish_bytes
from medfuncta_dist.task_map import Done, FanOut


def settle_task_size(run: RunFile, store: ObjectStore, fan_out: FanOut | None = None, *, fence: Guard) -> RunFile:
    """Choose ``fit.chosen_scans_per_task`` where nothing is given or chosen, and write the run file again.

    A worker tries the run's own network and settings on a batch of its scans, unless the choice is clear without. A
    trial that fails decides nothing but the size: the fit stage itself then finds what is wrong, scan by scan. A table
    that was begun (its run.yaml was lost) goes on with the ranges that it has.

    Raises:
        StageOrderError: the data set or the network is not complete.
        LeaseLostError: the lease was lost; what another driver has settled stays.
    """
    if not run.fit.task_size_open:
        return run
    target = locate_table(run, store)
    network = load_network(store, target.network)
    settings = stored_settings(run, network)
    committed = latent_ledger.settled(latent_ledger.read_commits(store, target.folder))
    begun = cut_before(target.snapshot, committed, _all_units(target, store))
    chosen = begun or _chosen(run, target, settings, network, fan_out or compute_fan_out(run))
    # What is stored may hold more than this command began with: a stage before this one may have added to it.
    kept = begun_with(run, store) or run
    publish_bytes(store, fence, run_path(run), dump(_with(kept, chosen)).encode())
    return _with(run, chosen)


def _with(run: RunFile, chosen: int) -> RunFile:
    return run.model_copy(update={"fit": run.fit.model_copy(update={"chosen_scans_per_task": chosen})})


def _chosen(run: RunFile, target: TableLocation, settings: FitSettings, network: SharedNetwork, fan_out: FanOut) -> int:
    shards = _shards(target)
    limits = _limits(run, shards, np.dtype(settings.storage_type).itemsize * (settings.keep or network.spec.latent))
    if limits.most_batches == 1:
        return limits.batch
    largest = max(shards, key=lambda work: work.units)
    (outcome,) = fan_out(trial_fit, [task_of(run, target, largest, settings, ALONE)])
    if isinstance(outcome, Done):
        rate, why = outcome.result, f"a worker fits {outcome.result:.3g} {_units(run)} per second"
    else:
        rate, why = OPEN_SCANS_PER_TASK / LEAST_SECONDS, f"warning: the trial of its speed failed ({outcome.error})"
    chosen = scans_per_task(rate, limits)
    print(f"[{run.name}] fit: {why}; {_said(run, chosen, limits)}", file=sys.stderr)
    return chosen


def _units(run: RunFile) -> str:
    return "scans" if run.data.patches is None else "patches"


def _said(run: RunFile, chosen: int, limits: Limits) -> str:
    bound = ", a whole shard: data.shard_scans bounds it" if chosen >= limits.largest_shard else ""
    return f"each task gets up to {chosen} {_units(run)}{bound}"


def _shards(target: TableLocation) -> list[FitWork]:
    """Every shard that is fitted, whole."""
    counts = target.unit_counts
    shards = {w.shard.sha256: w for w in target.works}
    return [replace(w, start=0, stop=counts[sha] if counts else w.shard.samples) for sha, w in shards.items()]


def _all_units(target: TableLocation, store: ObjectStore) -> dict[str, int] | None:
    """Units of each shard of the snapshot, also of those that are not fitted; None where each scan is one."""
    if target.grids is None:
        return None
    shards = [shard for shards in target.snapshot.splits.values() for shard in shards]
    return {shard: len(units) for shard, units in stored_units(store, shards, target.grids).items()}


def _limits(run: RunFile, shards: Sequence[FitWork], latent_bytes: int) -> Limits:
    sizes = [work.units for work in shards]
    part_bytes = PART_BYTES if run.data.patches is None else PATCH_PART_BYTES
    return Limits(run.fit.batch, max(sizes, default=1), sum(sizes), run.cluster.most_workers, latent_bytes, part_bytes)
