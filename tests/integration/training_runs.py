"""Small runs to train in tests, on a packed data set of synthetic scans. Run as a script: one command's driver.

python -m tests.integration.training_runs RUN.json SNAPSHOT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.task_map import map_here
from tests.writers import write_medmnist

SHAPE = [8, 8]
FIELDS: dict[str, dict[str, Any]] = {
    "siren": {
        "field": {"layers": 4, "hidden": 16, "latent": 8, "omega_first": 10.0, "omega_last": 30.0},
        "meta": {"inner_steps": 3, "inner_rate": 0.1, "selection_ratio": 0.5},
        "fit": {"steps": 3, "batch": 4},
    },
    "basis": {
        "field": {"kind": "basis", "layers": 3, "hidden": 16, "latent": 8, "features": 12, "omegas": [10.0, 10.0]},
        "meta": {"selection_ratio": 0.5},
        "fit": {"method": "exact", "steps": 1, "closed_form": False, "batch": 4},
    },
}
"""By kind of field: what of a run file depends on it."""


def run_file(storage: str, name: str, *, kind: str = "siren", workers: int = 1, **train: Any) -> RunFile:
    """A run over the data set ``scans``: field and inner loop tiny, everything logged, W&B off."""
    return RunFile.model_validate(
        {
            "name": name,
            "storage": storage,
            "data": {"source": "unused", "reader": "medmnist", "shape": SHAPE, "dataset": "scans"},
            **FIELDS[kind],
            # A constant rate, so that runs of different lengths begin alike; an optimiser that any ZeRO stage divides.
            "train": {
                "optimizer": "adamw",
                "batch": 5,
                "steps": 5,
                "rate": 1e-3,
                "warmup_steps": 2,
                "schedule": "constant",
                "validate_steps": 5000,
                "validate_scans": 8,
                **train,
            },
            "cluster": {"workers": workers},
            "telemetry": {"wandb": "off", "log_steps": 1},
        }
    )


def mounted_run(folder: Path) -> RunFile:
    """A run named x on a folder that pods mount, too, so that a Kubernetes cluster takes its jobs."""
    run = run_file(str(folder / "storage"), "x", steps=5)
    claims = {"kubernetes": run.kubernetes.model_copy(update={"claims": {"data": str(folder)}})}
    data = run.data.model_copy(update={"source": str(folder / "scans.npz"), "reader": None, "shard_scans": 16})
    return run.model_copy(update={**claims, "data": data})


def packed(storage: str, folder: Path) -> str:
    """Pack 40 + 8 + 8 scans as the data set ``scans``; returns the snapshot's digest."""
    source = write_medmnist(folder / "scans.npz", shape=SHAPE)
    data = {"source": str(source), "shape": SHAPE, "private": str(folder / "private"), "shard_scans": 16}
    run = RunFile.model_validate({"name": "scans", "storage": storage, "data": data})
    return pack(run, map_here, lambda progress: None).snapshot_digest


if __name__ == "__main__":
    from medfuncta_dist.training.trainer import train

    train(RunFile.model_validate(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2])
