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
from medfuncta_dist.evaluation.label_names import label_name
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
MOST_GROUPS = 50
"""Values of what is known of scans: more are no groups."""
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
    """The whole summary as JSON objects. ``scores`` has the columns of ``score_task.TASK_SCHEMA``."""
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
        "groups": by_group(scores, run.evaluate.split, _column_names(run)),
        "baselines": baselines,
        # Decoded now against measured when fitted: near 0, or the two ran on very different machines.
        "largest_psnr_difference": float(difference.max()),
        "note": run.evaluate.note,
    }


def storage_figures(
    storage: Storage, network: SharedNetwork, bytes_per_scan: float, shared_bytes: int
) -> dict[str, Any]:
    """How latents are stored: type, numbers, of how many, and the predicted loss in dB, null where none is known; bytes
    of the table per scan, and of what all latents share."""
    spectrum, numbers = spectrum_of(network), storage.numbers
    predicted = spectrum and predicted_loss(spectrum, storage.storage_type, numbers)
    figures = {"type": storage.storage_type, "numbers": numbers, "of": network.spec.latent}
    sizes = {"bytes_per_scan": bytes_per_scan, "shared_bytes": shared_bytes}
    return {**figures, "predicted_loss": predicted, **sizes}


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


def _column_names(run: RunFile) -> list[str]:
    """Columns of labels of the run file's table, which the owner has named."""
    return [] if run.data.table is None else [label.column for label in run.data.table.labels]


def by_split(scores: pa.Table) -> dict[str, Any]:
    """Every metric of every split."""
    return _groups(scores, scores["split"].to_pylist())


def by_label(scores: pa.Table, split: str) -> dict[str, Any]:
    """Every metric by label, over one split's labelled scans. Several labels together are one name: ``0, 3``."""
    labelled = pc.greater(pc.list_value_length(scores["labels"]), 0)
    rows = scores.filter(pc.and_(pc.equal(scores["split"], split), labelled))
    return _groups(rows, [label_name(labels) for labels in rows["labels"].to_pylist()])


def by_group(scores: pa.Table, split: str, columns: Sequence[str]) -> dict[str, Any]:
    """Every metric over one split's scans, by what else is known of them: modality, spacing, each column of labels.

    ``columns``: names of the columns of labels, as far as the run file knows them. Only what differs between scans,
    and has no more than ``MOST_GROUPS`` values, is in it.
    """
    rows = scores.filter(pc.equal(scores["split"], split))
    known = {
        "modality": rows["modality"].to_pylist(),
        "spacing": [" × ".join(f"{n:.3g}" for n in spacing) for spacing in rows["spacing"].to_pylist()],
        **_label_columns(rows["labels"].to_pylist(), columns),
    }
    return {name: _groups(rows, of) for name, of in known.items() if 1 < len(set(of)) <= MOST_GROUPS}


def _label_columns(labels: Sequence[Sequence[int]], columns: Sequence[str]) -> dict[str, list[str]]:
    """The values of each column of labels; none where there is one column, which ``labels`` of the summary has."""
    widths = {len(one) for one in labels if one}
    if len(widths) != 1 or (width := widths.pop()) < 2:
        return {}
    names = columns if len(columns) == width else [f"label {place}" for place in range(1, width + 1)]
    return {name: [str(one[at]) if one else "none" for one in labels] for at, name in enumerate(names)}


def _groups(rows: pa.Table, names: Sequence[str]) -> dict[str, Any]:
    named = [*METRICS, *({MASKED} & set(rows.column_names))]
    columns = {m: rows[m].to_numpy(zero_copy_only=False).astype(float) for m in named}
    grouped = metrics.by_group(names, columns)
    return {name: {m: _json(spread) for m, spread in found.items()} for name, found in grouped.items()}


def _json(spread: metrics.Spread | None) -> dict[str, Any] | None:
    return None if spread is None else spread.as_json()
