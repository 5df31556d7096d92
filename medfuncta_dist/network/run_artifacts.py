"""What a run's data set, shared network and latent table are to a service that tracks experiments: versions by digest.

    data set ──▶ training ──▶ shared network ──▶ fitting ──▶ latent table
        └──────────────────────────────────────────▲

No scan, latent, key, path or label is in them: counts, sizes, figures and digests only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medfuncta_dist.network.committed_network import Committed
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.artifact import Artifact


def dataset_artifact(snapshot: Snapshot) -> Artifact:
    """A snapshot of a data set."""
    facts = {
        "generation": snapshot.generation,
        "shape": snapshot.contract["shape"],
        "channels": snapshot.contract["channels"],
        "scans": {split: sum(shard.samples for shard in shards) for split, shards in snapshot.splits.items()},
        "quarantined": len(snapshot.quarantined),
    }
    return Artifact("dataset", snapshot.name, snapshot.digest, facts)


def network_artifact(run: str, done: Committed, store: ObjectStore, *, with_files: bool) -> Artifact:
    """A run's shared network; ``with_files``, its content, too."""
    facts = {
        "dataset": done.dataset_digest,
        "steps": done.step,
        "loss": done.loss,
        "psnr": done.psnr,
        "started_from": done.started_from,
    }
    artifact = Artifact("network", f"{run}-network", done.digest, facts)
    if not with_files:
        return artifact
    return replace(artifact, read_files=lambda: {name: store.read(file["path"]) for name, file in done.files.items()})


def table_artifact(run: str, figures: Mapping[str, Any]) -> Artifact:
    """A run's latent table, from what the fit stage reports."""
    facts = {name: figures[name] for name in ("dataset", "network", "counts", "psnr", "storage_type", "numbers")}
    return Artifact("latents", f"{run}-latents", figures["table"], facts)
