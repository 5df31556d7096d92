"""Which metric finds the same class more often: neighbours of held-out scans among the training scans.

Both kinds of field are trained briefly on PneumoniaMNIST (``--data``), as the product trains and fits. For each
held-out scan, the share of its ten nearest training scans that have its class, and whether the nearest has; the mean
over classes of the mean over scans. What a metric leaves open (what is added to whitened variances, where a SIREN's
curvature is taken) is chosen on the validation split, and told on the test split. Distances of pixels stand beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import preset_scans
from benchmarks.common import Claim, report
from benchmarks.field_methods import Learned, decibel, trained
from benchmarks.field_sets import SETS, Case, Choice, basis_sections, run_of, siren
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latents.image_curvature import image_curvature
from medfuncta_dist.neighbours.latent_metric import (
    PLAIN,
    WHITENING_FLOOR,
    LatentMetric,
    image_metric,
    whitened_metric,
)

SHAPE, LATENT, NEAR = (28, 28), 128, 10
FLOORS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
SPLITS = ("train", "val", "test")
Latents = Mapping[str, np.ndarray]


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few steps on made scans; writes no results")
    parser.add_argument("--data", type=Path, help="pneumoniamnist.npz")
    given, began = parser.parse_args(), time.perf_counter()
    scans = preset_scans.made_scans(2) if given.short else preset_scans.pneumonia(given.data)
    labels = made_labels(scans) if given.short else preset_scans.pneumonia_labels(given.data)
    shape = tuple(scans.shape)
    results: dict[str, Any] = {
        "pixels": scored({s: split_of(scans, s).flatten(1).numpy() for s in SPLITS}, labels, PLAIN)
    }
    for kind in ("basis", "siren"):
        learned = trained_kind(kind, scans, 3 if given.short else {"basis": 200, "siren": 400}[kind])
        latents = {split: learned.encode(split_of(scans, split)).numpy() for split in SPLITS}
        results[kind] = {"psnr": decibel(learned, scans.test), **of_metrics(learned, latents, labels, shape)}
    told(given.short, began, results)


def split_of(scans: preset_scans.Scans, split: str) -> torch.Tensor:
    """Scans (scan, point, 1)."""
    found: torch.Tensor = getattr(scans, split)
    return found


def made_labels(scans: preset_scans.Scans) -> dict[str, np.ndarray]:
    """Two classes by chance, of scans that have none."""
    return {split: np.arange(len(split_of(scans, split))) % 2 for split in SPLITS}


def trained_kind(kind: str, scans: preset_scans.Scans, steps: int) -> Learned:
    """A short training with the settings of `fields.py`, or of `presets.py`."""
    case = Case("pneumonia", SETS["pneumonia"], scans)
    sections = basis_sections(case, Choice(512, 20.0, 5e-4, steps, 0.0), LATENT)
    if kind == "siren":
        meta = {"inner_rate": 0.3, "selection_ratio": 0.5}
        sections = siren(LATENT, meta, {"batch": 16, "steps": steps, "warmup_steps": min(20, steps // 3)})
    learned, seconds = trained(run_of(case, sections, 0, scans.shape), scans.train)
    print(f"{kind}: {steps} steps in {seconds:.0f} s of CPU time", file=sys.stderr, flush=True)
    return learned


def of_metrics(learned: Learned, latents: Latents, labels: Latents, shape: tuple[int, ...]) -> dict[str, Any]:
    """Every metric, each variant scored on both held-out splits; the best one of each by validation scans."""
    network = learned.network
    shared = SharedNetwork(network.spec, network.params, {}, {}, "", "", network.extras)
    zero = np.zeros_like(latents["train"][:1])
    variants: dict[str, dict[str, LatentMetric]] = {
        "plain": {"": PLAIN},
        "whitened": {f"floor {floor:g}": whitened_metric(latents["train"], floor) for floor in FLOORS},
        "image": {
            "over 32 training scans": image_metric(image_curvature(shared, latents["train"], shape)),
            "at zero": image_metric(image_curvature(shared, zero, shape)),
        },
    }
    found: dict[str, Any] = {}
    for name, several in variants.items():
        tried = {variant: scored(latents, labels, metric) for variant, metric in several.items()}
        best = max(tried, key=lambda variant: tried[variant]["val"]["ten"])
        found[name] = {"chosen": best, **tried[best], "tried": tried}
    return found


def scored(latents: Latents, labels: Latents, metric: LatentMetric) -> dict[str, dict[str, float]]:
    """Of the validation and the test scans: share of neighbours of the same class."""
    there = metric.coordinates(latents["train"]).astype(np.float64)
    return {
        split: same_class(there, labels["train"], metric.coordinates(latents[split]), labels[split])
        for split in SPLITS[1:]
    }


def same_class(there: np.ndarray, classes: np.ndarray, here: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Share of the nearest, and of the ten nearest, that are of the same class; every class alike."""
    distances = np.square(there).sum(1) - 2 * here.astype(np.float64) @ there.T
    order = np.argsort(distances, axis=1)[:, :NEAR]
    same = classes[order] == own[:, None]
    groups = [own == label for label in np.unique(own)]
    return {
        "one": float(np.mean([same[group, 0].mean() for group in groups])),
        "ten": float(np.mean([same[group].mean() for group in groups])),
    }


def told(short: bool, began: float, results: dict[str, Any]) -> None:
    """The claims and the table."""
    table = [
        {
            "features": "pixels",
            "metric": "plain",
            "chosen": "",
            "nearest": results["pixels"]["test"]["one"],
            "ten nearest": results["pixels"]["test"]["ten"],
        }
    ]
    for kind in ("basis", "siren"):
        for metric in ("plain", "whitened", "image"):
            one = results[kind][metric]
            table.append(
                {
                    "features": f"{kind} field",
                    "metric": metric,
                    "chosen": one["chosen"],
                    "nearest": one["test"]["one"],
                    "ten nearest": one["test"]["ten"],
                }
            )
    claims = [
        Claim(
            f"{kind} field: ten nearest of the same class, image over plain",
            results[kind]["image"]["test"]["ten"] / results[kind]["plain"]["test"]["ten"],
            0.99,
            True,
        )
        for kind in ("basis", "siren")
    ]
    notes = [
        "Share of training scans among the nearest that have a test scan's class, mean over both classes.",
        f"Chosen on the validation split. The product adds {WHITENING_FLOOR:g} of the mean variance since.",
        *(
            f"The {kind} field reconstructs the test scans at {results[kind]['psnr']:.2f} dB."
            for kind in ("basis", "siren")
        ),
    ]
    report("neighbour_metrics", short, began, results, claims, table, notes)


if __name__ == "__main__":
    main()
