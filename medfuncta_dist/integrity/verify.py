"""Re-checks every checksum and every count of what runs have written, and repairs what can be made again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medfuncta_dist.config.load import MAX_BYTES, load, parse_kept
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, ObjectMissingError, RunFileError, StageOrderError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import locate_table
from medfuncta_dist.fitting.fit_plan import cover
from medfuncta_dist.fitting.patched import patch_ledger
from medfuncta_dist.integrity.damaged_latents import find_damaged_records
from medfuncta_dist.integrity.repair import REPAIRS, run_repair
from medfuncta_dist.integrity.repair_snapshots import find_snapshot_faults
from medfuncta_dist.integrity.verify_catalogue import MISSING, verify_catalogue
from medfuncta_dist.integrity.verify_shards import Fault, verify_snapshot
from medfuncta_dist.neighbours.index_check import check_indexes
from medfuncta_dist.network.committed_network import published_network
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.network.start_network import load_start
from medfuncta_dist.prior.prior_files import committed_prior, load_prior
from medfuncta_dist.run.fan_outs import cpu_fan_out
from medfuncta_dist.shards.data_contract import about_splits, splits_by
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.promised import REPAIR
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.training.checkpoints.checkpoint import verify_checkpoints

Figures = dict[str, Any]
WAY_OUT = (
    f"{REPAIR}: it writes snapshots again from their records, packs damaged shards again from the archive, removes "
    "damaged checkpoints and indexes of neighbours, and fits damaged latents again"
)
BEYOND_REPAIR = "restore these objects from a backup; the lines above say what was repaired"


def verify_target(target: str, overrides: Sequence[str], repair: bool = False) -> Figures:
    """Verify a run (a run file), or every run below a storage root (URI or folder). IntegrityError: all faults.

    ``repair`` repairs what can be made again, then verifies it; the faults that stay are raised.
    """
    figures: Figures = {"runs": {}, "said": []}
    faults: list[Fault] = []
    for run in list(_runs(target, overrides)):
        if isinstance(run, Fault):
            faults.append(run)
            continue
        found, said, run_faults = _verify_run(run, repair)
        figures["runs"][run.name] = found
        figures["said"] += [f"verify {run.name}: {line}" for line in said]
        faults += run_faults
    if faults:
        print("\n".join(figures["said"]), file=sys.stderr)
        raise IntegrityError(
            f"{len(faults)} faults:\n" + "\n".join(f"  {fault.where}: {fault.what}" for fault in faults),
            do=BEYOND_REPAIR if repair else WAY_OUT,
        )
    return figures


def _runs(target: str, overrides: Sequence[str]) -> Iterator[RunFile | Fault]:
    if target.endswith((".yaml", ".yml")) and Path(target).is_file():
        yield load(target, overrides)
        return
    store = ObjectStore(target)
    files = [info.path for info in store.list("runs") if info.path.count("/") == 2 and info.path.endswith("/run.yaml")]
    if not files:
        raise RunFileError(
            "there are no runs here", where=store.uri("runs"), do="give a run file, or the storage root of a run"
        )
    for path in files:
        yield _stored(store, path, overrides)


def _stored(store: ObjectStore, path: str, overrides: Sequence[str]) -> RunFile | Fault:
    """A run's frozen run file; a fault where it is damaged: the other runs are verified nevertheless."""
    where = store.uri(path)
    here = f"storage={store.root}"  # The root may be mounted or copied elsewhere than where the run wrote it.
    try:
        text = store.read(path, limit=MAX_BYTES).decode()
        parse_kept(text, [here], where=where)
    except UnicodeDecodeError:
        return Fault(where, "the run file is not text")
    except (IntegrityError, RunFileError) as error:
        return Fault(where, f"the run file cannot be read: {error.what}")
    return parse_kept(text, [here, *overrides], where=where)


def _verify_run(run: RunFile, repair: bool) -> tuple[Figures, list[str], list[Fault]]:
    store = ObjectStore(run.storage)
    figures: Figures = {}
    said: list[str] = []
    faults: list[Fault] = []
    for name, verify in PARTS.items():
        found, line, part_faults = _verify_part(verify, run, store)
        if repair and part_faults and name in REPAIRS:
            said.append(f"{name}: {line}")
            repairs, reasons = run_repair(REPAIRS[name], run, store, part_faults)
            said += [f"{name}: {note}" for note in repairs]
            found, line, part_faults = _verify_part(verify, run, store)
            found["repaired"] = repairs
            part_faults = [Fault(f.where, reasons.get(f.where, f.what)) for f in part_faults]
        figures[name] = found
        said.append(f"{name}: {line}")
        faults += part_faults
    return figures, said, faults


def _verify_part(verify: Verify, run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    try:
        return verify(run, store)
    except StageOrderError as error:
        return {}, f"nothing to check yet ({error.what})", []
    except (IntegrityError, ObjectMissingError) as error:
        return {}, "damaged", [Fault(error.where, error.what)]


def _snapshots(run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    faults = find_snapshot_faults(run, store)
    line = "each has its file and its commit record" if not faults else f"{len(faults)} faults"
    return {"damaged": len(faults)}, line, faults


def _dataset(run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    with ProgressBar("verify") as bar:
        faults = verify_snapshot(store, snapshot, cpu_fan_out(run), bar.show)
    counts = dict(snapshot.counts)
    shards = sum(map(len, snapshot.splits.values()))
    line = (
        f"{shards} shards hold {snapshot.samples} scans; "
        f"found {counts['scans']} = packed {counts['packed']} + quarantined {counts['quarantined']}"
    )
    figures = {"snapshot": snapshot.digest, "shards": shards, "counts": counts}
    return (
        figures | {"splits_by": str(splits_by(snapshot.contract))},
        f"{line}; {about_splits(snapshot.contract)}",
        faults,
    )


def _checkpoints(run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    whole, damaged = verify_checkpoints(store, run.name)
    faults = [Fault(where, what) for where, what in damaged]
    return {"whole": whole, "damaged": len(damaged)}, f"{whole} whole, {len(damaged)} damaged", faults


def _network(run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    load_start(run.name, store)
    ref = published_network(store, run.name)
    load_network(store, ref)
    return {"digest": ref.digest}, f"whole, {ref.digest[:12]}", []


def _latents(run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    target = locate_table(run, store)
    if damaged := find_damaged_records(store, target.folder):
        faults = [Fault(store.uri(damage.part or damage.record), damage.what) for damage in damaged]
        return {"damaged": len(damaged)}, f"{len(damaged)} commit records are damaged, or their parts", faults
    commits = latent_ledger.read_commits(store, target.folder)
    if not commits:
        raise StageOrderError("no scan is fitted")
    works, unfitted = cover(target.works, commits)
    if target.units is None:
        counts = latent_ledger.verify(store, target.folder, works)
    else:
        counts = patch_ledger.verify(store, target.folder, works, target.units)
    line = f"packed {counts.packed} = fitted {counts.fitted} + quarantined {counts.quarantined}"
    left = sum(work.units for work in unfitted)
    if left:
        of = "packed scans" if target.units is None else "patches of packed scans"
        line = f"not finished, {left} {of} are not fitted yet (run fit); of the others, {line}"
    catalogue, faults = verify_catalogue(store, target.folder, target.shards) if counts.fitted else (MISSING, [])
    figures = {"packed": counts.packed, "fitted": counts.fitted, "quarantined": counts.quarantined}
    told = (
        "; their catalogue is missing: run fit, which writes it" if catalogue == MISSING else f"; catalogue {catalogue}"
    )
    return figures | {"unfitted": left, "catalogue": catalogue}, line + told, faults


def _neighbours(run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    checked = check_indexes(run, store)
    faults = [Fault(one.where, one.what) for one in checked if one.what]
    former = sum(not one.present for one in checked) - len(faults)
    line = f"{len(checked)} indexes, {len(faults)} damaged"
    if former:
        line += f", {former} of a former latent table (run `medfuncta-dist index RUN.yaml`)"
    return {"indexes": len(checked), "damaged": len(faults), "former": former}, line, faults


def _prior(run: RunFile, store: ObjectStore) -> tuple[Figures, str, list[Fault]]:
    done = committed_prior(store, run.name)
    if done is None:
        raise StageOrderError("the run has no prior")
    load_prior(store, run.name, done)
    return {"digest": done.digest}, f"whole, {done.digest[:12]}", []


Verify = Callable[[RunFile, ObjectStore], tuple[Figures, str, list[Fault]]]
PARTS: dict[str, Verify] = {
    "snapshots": _snapshots,
    "shards": _dataset,
    "checkpoints": _checkpoints,
    "network": _network,
    "latents": _latents,
    "prior": _prior,
    "neighbours": _neighbours,
}
