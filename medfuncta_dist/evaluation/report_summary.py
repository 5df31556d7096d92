"""The content of ``runs/<name>/report/summary.json``, from the scores of all scans. Pure.

Every metric is {"scans", "mean", "std", "median", "lowest", "highest"}, or null where it is not defined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation import metrics
from medfuncta_dist.evaluation.baselines import Baselines
from medfuncta_dist.evaluation.dct import DctScores
from medfuncta_dist.evaluation.pca import PcaScores
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting.fit_driver import TableLocation
from medfuncta_dist.fitting.latent_ledger import Commit, Counts
from medfuncta_dist.latents.storage_loss import predicted_loss
from medfuncta_dist.latents.table_format import Storage
from medfuncta_dist.network.core_settings import spectrum_of
from medfuncta_dist.shards.data_contract import about_splits

FORMAT_VERSION = 1
METRICS = ("psnr", "ssim", "mse")
MASKED = "psnr_mask"
"""Beside the others where any scan has a segmentation."""


def summarise(
    run: RunFile,
    target: TableLocation,
    commits: Sequence[Commit],
    counts: Counts,
    scores: pa.Table,
    baselines: dict[str, Any] | None,
    storage: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole summary as JSON objects. ``scores`` has the columns of ``score_task.SCHEMA``."""
    fitting = Counter(scan.reason for commit in commits for scan in commit.quarantined)
    packing = Counter(entry["reason"] for entry in target.snapshot.quarantined)
    difference = np.abs(scores["psnr"].to_numpy() - scores["fit_psnr"].to_numpy())
    return {
        "format_version": FORMAT_VERSION,
        "run": run.name,
        "split": run.evaluate.split,
        "dataset": {
            "name": target.snapshot.name,
            "digest": target.snapshot.digest,
            "counts": dict(target.snapshot.counts),
            "splits_by": about_splits(target.snapshot.contract),
        },
        "network": {"digest": target.network.digest},
        "latents": target.folder,
        "storage": storage,
        "counts": asdict(counts),
        "quarantine_reasons": {"packing": dict(packing), "fitting": dict(fitting)},
        "splits": by_split(scores),
        "labels": by_label(scores, run.evaluate.split),
        "baselines": baselines,
        # Decoded now against measured when fitted: near 0, or the two ran on very different machines.
        "largest_psnr_difference": float(difference.max()),
        "note": run.evaluate.note,
    }


def storage_figures(storage: Storage, network: SharedNetwork) -> dict[str, Any]:
    """How latents are stored: type, numbers, of how many, and the predicted loss in dB; null where none is known."""
    spectrum, numbers = spectrum_of(network), storage.numbers
    predicted = spectrum and predicted_loss(spectrum, storage.storage_type, numbers)
    figures = {"type": storage.storage_type, "numbers": numbers, "of": network.spec.latent}
    return {**figures, "predicted_loss": predicted}


def against_baselines(
    baselines: Baselines, psnr: Float[np.ndarray, " scan"], pca: PcaScores | None, dct: DctScores | None
) -> dict[str, Any]:
    """PSNR of the reconstructions and of the baselines on the same scans, and the mean gain over each, in dB."""
    named = {"mean_scan": baselines.mean_scan, "nearest_scan": baselines.nearest}
    mine = float(psnr.mean())
    figures = {name: _against(v, mine) for name, v in named.items()}
    linear = {
        "pca": pca and {"components": pca.components, "training_scans": pca.training_scans, **_against(pca.psnr, mine)},
        "dct": dct
        and {"coefficients": dct.coefficients, "training_scans": dct.training_scans, **_against(dct.psnr, mine)},
    }
    return {"scans": len(psnr), "reconstruction": {"psnr": _json(metrics.spread(psnr))}, **figures, **linear}


def _against(baseline: Float[np.ndarray, " scan"], mine: float) -> dict[str, Any]:
    return {"psnr": _json(metrics.spread(baseline)), "gain": mine - float(baseline.mean())}


def by_split(scores: pa.Table) -> dict[str, Any]:
    """Every metric of every split."""
    return _groups(scores, scores["split"].to_pylist())


def by_label(scores: pa.Table, split: str) -> dict[str, Any]:
    """Every metric by label, over one split's labelled scans. Several labels together are one name: ``0, 3``."""
    labelled = pc.greater(pc.list_value_length(scores["labels"]), 0)
    rows = scores.filter(pc.and_(pc.equal(scores["split"], split), labelled))
    return _groups(rows, [", ".join(map(str, labels)) for labels in rows["labels"].to_pylist()])


def _groups(rows: pa.Table, names: Sequence[str]) -> dict[str, Any]:
    named = [*METRICS, *({MASKED} & set(rows.column_names))]
    columns = {m: rows[m].to_numpy(zero_copy_only=False).astype(float) for m in named}
    grouped = metrics.by_group(names, columns)
    return {name: {m: _json(spread) for m, spread in found.items()} for name, found in grouped.items()}


def _json(spread: metrics.Spread | None) -> dict[str, Any] | None:
    return None if spread is None else spread.as_json()
