"""A run's latent table as it may be published: complete, counted, and each part compared with its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError, StageOrderError
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation, locate_table, require_scans
from medfuncta_dist.fitting.fit_plan import cover
from medfuncta_dist.fitting.latent_ledger import Commit
from medfuncta_dist.fitting.whole_scans import require_whole_scans
from medfuncta_dist.latents import table_format
from medfuncta_dist.network.committed_network import KIND as NETWORK
from medfuncta_dist.network.committed_network import TRAINING_SPLIT, record_path, require_all_steps
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.publication.privacy_gate import NeverPublished, never_published
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.commit_record import read_record
from medfuncta_dist.storage.object_store import ObjectStore


@dataclass(frozen=True)
class Training:
    """What the network's record tells of its training."""

    steps: int | None
    """Outer steps."""
    started_from: bool
    """It began with another trained network."""


@dataclass(frozen=True)
class CheckedTable:
    """The table of some splits of a run."""

    run: RunFile
    store: ObjectStore
    location: TableLocation
    network: SharedNetwork
    commits: Sequence[Commit]
    """Of ranges with fitted scans."""
    never: NeverPublished

    @classmethod
    def open(cls, run: RunFile, splits: Sequence[str] | None = None) -> CheckedTable:
        """The table of the splits (None: all that are fitted).

        Raises:
            StageOrderError: the run is not trained to its end, a packed scan is neither fitted nor quarantined, or the
                latents were imported without their scans.
            IntegrityError: the counts do not balance, or the network is not the one that was committed.
            RunFileError: the table has no such split, or a scan may not be published (see ``never_published``).
        """
        store = ObjectStore(run.storage)
        require_whole_scans(run, "publishing")
        require_all_steps(run, store)
        location = locate_table(run, store)
        require_scans(location)  # else nothing tells PSNR, and which scans may name their patient
        _require_splits(location, splits)
        commits = _complete(store, location)
        never = never_published(store, run, location.snapshot, commits)
        chosen = [commit for commit in commits if commit.rows and (splits is None or commit.split in splits)]
        if not chosen:
            do = "look at the quarantined scans, or name another --split"
            raise StageOrderError("no scan is fitted", where=store.uri(location.folder), do=do)
        return cls(run, store, location, load_network(store, location.network), chosen, never)

    def parts(self, columns: Sequence[str]) -> Iterator[tuple[Commit, pa.Table]]:
        """The parts, one in memory at a time. IntegrityError where one is not what was committed."""
        first: pa.Schema | None = None
        for commit in self.commits:
            assert commit.part is not None
            rows = table_format.read_part(self.store, self.location.folder, commit.part, columns)
            if rows.num_rows != commit.rows:
                what = f"a part holds {rows.num_rows} rows, but its commit record says {commit.rows}"
                raise IntegrityError(what, where=self.store.uri(self.location.folder), do=table_format.FIT_AGAIN)
            first = first or rows.schema
            table_format.require_alike([first, rows.schema])
            yield commit, rows

    def training(self) -> Training:
        """How the network was trained, as far as its record tells."""
        body = read_record(self.store, record_path(self.run.name), NETWORK)
        step = body.get("step")
        return Training(step if isinstance(step, int) else None, body.get("started_from") is not None)

    def trained_on(self) -> int | None:
        """How many scans the network was trained on; None where their snapshot is gone, as scans were forgotten."""
        with suppress(RunFileError, StageOrderError):
            snapshot = load_snapshot(self.store, self.run.dataset, self.network.dataset_digest)
            return sum(shard.samples for shard in snapshot.splits.get(TRAINING_SPLIT, ()))
        return None


def _require_splits(location: TableLocation, splits: Sequence[str] | None) -> None:
    found = sorted({work.split for work in location.works})
    if unknown := sorted(set(splits or ()) - set(found)):
        what = f"the table has no split {', '.join(unknown)}"
        raise RunFileError(what, where="--split", do=f"name one of: {', '.join(found)}")


def _complete(store: ObjectStore, location: TableLocation) -> list[Commit]:
    """The records of all ranges, in the order of their names; their counts balance."""
    commits = latent_ledger.read_commits(store, location.folder)
    works, left = cover(location.works, latent_ledger.settled(commits))
    if left:
        scans = sum(work.units for work in left)
        what = f"{scans} packed scans are neither fitted nor quarantined"
        raise StageOrderError(what, where=store.uri(location.folder), do="run the fit stage first, and let it finish")
    latent_ledger.reconcile(location.works, commits)
    return [commits[name] for name in sorted(work.name for work in works)]
