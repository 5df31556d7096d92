"""The data sets of `fields.py`: their scans, numbers per scan, and settings of both kinds of field."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import preset_scans
from benchmarks.preset_scans import Scans
from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.train_section import Augment

Sections = dict[str, dict[str, Any]]
Labels = dict[str, np.ndarray]


@dataclass(frozen=True)
class Choice:
    """What is searched for a basis field. ``amount``: of affine augmentation, 0 for scans as they are."""

    features: int
    omega: float
    rate: float
    steps: int
    amount: float
    batch: int = 64

    @property
    def name(self) -> str:
        """In a few words."""
        changed = f"augmented {self.amount:g}" if self.amount else "as scans are"
        return f"F {self.features}, ω {self.omega:g}, rate {self.rate:g}, {self.steps} steps of {self.batch}, {changed}"


@dataclass(frozen=True)
class Set:
    """A data set, the numbers per scan, where the search starts and what it tries, and the SIREN's settings."""

    scans: Callable[[argparse.Namespace], Scans]
    latent: int
    start: Choice
    search: Mapping[str, Sequence[Any]]
    siren: Sections
    flip: tuple[int, ...] = ()
    """Axes along which a mirrored scan could be one."""
    labels: Callable[[argparse.Namespace], Labels] | None = None
    half: bool = True
    """Whether it is trained at every second point, too."""
    draws: int = 2**14
    """Augmented scans that PCA is fitted on, at most."""


def siren(latent: int, meta: Mapping[str, Any], train: Mapping[str, Any], **changes: Any) -> Sections:
    """The network that `presets.py` measured: five layers of 64."""
    sizes = {"layers": 5, "hidden": 64, "latent": latent, "omega_first": 20.0, "omega_last": 80.0}
    return {"field": {**sizes, **changes}, "meta": {"inner_steps": 5, **meta}, "train": {"rate": 1e-3, **train}}


OF_SLICES = {"inner_rate": 0.3, "selection_ratio": 0.25}, {"batch": 8, "steps": 500, "rate": 2e-3, "warmup_steps": 20}
AMOUNT = 0.06
"""Of augmentation, where there is some: each number of the affine map; shifts of half of it, in fields of view."""

SETS = {
    "quickstart": Set(
        lambda _: preset_scans.quickstart_slices(),
        512,
        Choice(1024, 10.0, 1e-3, 60, AMOUNT),
        {"omega": [20.0], "features": [512], "rate": [5e-4], "amount": [0.0], "steps": [100]},
        siren(512, *OF_SLICES),
        flip=(0,),
    ),
    "quickstart, P = 96": Set(
        lambda _: preset_scans.quickstart_slices(),
        96,
        Choice(192, 10.0, 1e-3, 120, AMOUNT),
        {"omega": [20.0], "features": [96], "rate": [5e-4, 2e-3], "amount": [0.0], "steps": [60]},
        siren(96, *OF_SLICES),
        flip=(0,),
        half=False,
    ),
    "pneumonia": Set(
        lambda options: preset_scans.pneumonia(options.data),
        128,
        Choice(512, 20.0, 1e-3, 200, 0.0),
        {"features": [256], "omega": [10.0], "amount": [AMOUNT], "rate": [5e-4], "steps": [400]},
        siren(128, {"selection_ratio": 0.5}, {"batch": 16, "steps": 200}, residual=False),
        labels=lambda options: preset_scans.pneumonia_labels(options.data),
    ),
    "ecg": Set(
        lambda _: preset_scans.electrocardiogram(),
        64,
        Choice(128, 20.0, 1e-3, 100, 0.0),
        {
            "steps": [1, 30, 300],
            "amount": [AMOUNT],
            "omega": [10.0, 40.0],
            "features": [64, 256],
            "rate": [5e-4, 2e-3],
        },
        siren(64, {"inner_rate": 0.05, "selection_ratio": 1.0}, {"batch": 16, "steps": 300}),
    ),
    "cubes": Set(
        lambda _: preset_scans.mni_cubes(),
        256,
        Choice(512, 10.0, 1e-3, 30, 0.0, batch=16),
        {"amount": [AMOUNT], "omega": [20.0], "steps": [1], "features": [1024]},
        siren(256, {"selection_ratio": 0.1}, {"batch": 4, "steps": 60}),
        flip=(0,),
    ),
}
SHORT = {"quickstart": 2, "pneumonia": 2, "ecg": 1, "cubes": 3}
"""Axes of the made scans of a short run."""


@dataclass(frozen=True)
class Case:
    """A data set with its scans and labels."""

    name: str
    set: Set
    scans: Scans
    labels: Labels | None = None

    @property
    def latent(self) -> int:
        """P."""
        return self.set.latent


def made(name: str, of: Set) -> tuple[Set, Scans, Labels]:
    """A data set of a few scans, numbers and steps, whose labels are whether a scan is bright."""
    scans = preset_scans.made_scans(SHORT[name])
    tiny = {"layers": 3, "hidden": 8, "latent": 8}
    sections = {
        **of.siren,
        "field": {**of.siren["field"], **tiny},
        "train": {**of.siren["train"], "steps": 3, "batch": 4},
    }
    start = replace(of.start, features=16, steps=4, batch=8)
    small = replace(of, latent=8, start=start, search={"amount": [AMOUNT - of.start.amount]}, siren=sections, draws=64)
    bright = {s: getattr(scans, s).mean((1, 2)) for s in ("train", "val", "test")}
    return small, scans, {s: (values > bright["train"].median()).long().numpy() for s, values in bright.items()}


def augmentation(case: Case, amount: float = AMOUNT) -> Augment:
    """The augmentation of that amount."""
    return Augment(affine=amount, shift=amount / 2, flip=list(case.set.flip))


def run_of(case: Case, sections: Sections, seed: int, shape: Sequence[int]) -> RunFile:
    """Sections as the run file that would train so."""
    sections = {**sections, "train": {**sections["train"], "seed": seed}}
    data = {"source": "none", "shape": list(shape)}
    values = {"name": "fields", "storage": "/none", "data": data, **sections}
    return parse(json.dumps(values), [])


def basis_sections(case: Case, choice: Choice, latent: int) -> Sections:
    """A choice as the sections of a run file; what it does not name has the defaults of its kind."""
    train: dict[str, Any] = {"rate": choice.rate, "steps": choice.steps, "batch": choice.batch}
    if choice.amount:
        train["augment"] = augmentation(case, choice.amount).model_dump()
    train["warmup_steps"] = min(20, choice.steps // 3)
    sizes = {"kind": "basis", "latent": latent, "features": choice.features, "hidden": 256}
    omegas = {"omega_first": choice.omega, "omega_last": choice.omega}
    return {"field": {**sizes, **omegas}, "train": train}
