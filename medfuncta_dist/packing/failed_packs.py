"""A data set of which no scan could be packed: it has no snapshot, nobody reads it, and packing begins anew.

So its contract may be corrected, and its sources are read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medfuncta_dist.errors import NothingPackedError
from medfuncta_dist.packing.pack_record import NAMES, PackRecord
from medfuncta_dist.shards.snapshot import Snapshot, dataset_path
from medfuncta_dist.storage.commit_record import record_paths
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, withdraw

LISTED_REASONS = 10


def is_empty(newest: Snapshot | None, records: Sequence[PackRecord]) -> bool:
    """Whether nothing was ever packed into a data set: then its contract decides nothing."""
    return newest is None and not any(record.counts["packed"] for record in records)


def withdraw_empty(store: ObjectStore, name: str, fence: Guard) -> None:
    """Remove what is recorded of a data set for which ``is_empty`` holds. LeaseLostError if the lease is lost."""
    for path in record_paths(store, dataset_path(name, "packs"), NAMES):
        withdraw(store, fence, path)
    withdraw(store, fence, dataset_path(name, "dataset.json"))


def nothing_packed(snapshot: Snapshot) -> NothingPackedError:
    """The reasons, with how often each was found, are the message."""
    reasons = Counter(entry["reason"] for entry in snapshot.quarantined).most_common()
    listed = "".join(f"\n    {n} x {reason}" for reason, n in reasons[:LISTED_REASONS])
    if len(reasons) > LISTED_REASONS:
        listed += f"\n    {len(reasons) - LISTED_REASONS} other reasons"
    counts = snapshot.counts
    what = f"no usable scan in {counts['sources']} sources"
    if not reasons:
        return NothingPackedError(what, where="data", do="check data.source, data.reader and data.slices")
    lost = counts["quarantined"] + counts["sources_quarantined"]
    return NothingPackedError(
        f"{what}; {lost} were quarantined because of:{listed}",
        where="data",
        do="correct the data section or the archive, and pack again: everything is read again, under any data section",
    )
