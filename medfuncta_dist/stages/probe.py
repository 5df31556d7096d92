"""Classifies scans from their latents."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation import probe


def probe_run(run: RunFile) -> dict[str, Any]:
    """k-NN and logistic regression on the training split's latents, evaluated on the test split."""
    found = probe.probe_run(run)
    lines = [
        f"  {one['classifier']:<22} accuracy {one['accuracy']:.3f}   macro F1 {one['macro_f1']:.3f}"
        for one in found["classifiers"]
    ]
    scans = found["scans"]
    return {**found, "said": [f"probe: {scans['train']} training, {scans['test']} test scans", *lines]}
