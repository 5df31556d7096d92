"""Fewer outer steps: held-out PSNR against outer steps and time, for inner-rate policies and outer optimisers.

Each arm trains a network from the same seed on the same batches and then fits held-out scans: all coordinates, 20 plain
steps at its own inner rates. Arms are chosen on the validation split and reported on the test split. ``--data`` takes a
MedMNIST file (its three splits); without it, scans are made. The default runs the arms of the claim; ``--arms`` runs
any others by name, or ``all``. Arms run side by side, one a core.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.inner_rates import layer_rates
from medfuncta_dist.meta.losses import psnr_of_mse
from medfuncta_dist.meta.meta_gradient import descend
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold
from medfuncta_dist.meta.sweeps.inner_gradient import losses
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.optim.outer_optimizers import outer_optimizer
from medfuncta_dist.training.optim.parameter_groups import SHARE, parameter_groups

if TYPE_CHECKING:
    from benchmarks.outer_curves import Curve  # at run time it brings matplotlib, which an arm's process never needs

SIDE, BATCH, INNER_STEPS, RATIO, FIT_STEPS = 28, 16, 5, 0.5, 20
NETWORKS = {
    "small": {"layers": 5, "hidden": 64, "latent": 128, "omega_first": 20.0, "omega_last": 80.0},
    "middle": {"layers": 6, "hidden": 96, "latent": 128, "omega_first": 20.0, "omega_last": 120.0},
    "large": {"layers": 8, "hidden": 128, "latent": 128, "omega_first": 20.0, "omega_last": 200.0},
    "paper": {"layers": 15, "hidden": 256, "latent": 2048, "omega_first": 20.0, "omega_last": 400.0},
}


@dataclass(frozen=True)
class Arm:
    """A way to train. ``policy`` and ``by_omega`` are ``meta.rate_policy`` and ``train.rate_by_omega``; ``dimensions``
    learns a rate for each latent dimension, too."""

    network: str
    inner_rate: float
    outer_rate: float
    by_omega: bool = False
    policy: str = "scalar"
    steps: int = 600
    warmup: int = 0
    dimensions: bool = False
    optimiser: str = "adamw"
    batch: int = BATCH
    held_out: int | None = None
    """Only so many of the validation and of the test scans."""


PAPER = Arm("paper", 0.0125, 6e-5, by_omega=True, steps=100, batch=8, held_out=64)
ARMS = {
    "small-.01-slower": Arm("small", 0.01, 5e-4),
    "small-.01": Arm("small", 0.01, 1e-3),
    "small-.01-faster": Arm("small", 0.01, 2e-3),
    "small-.5": Arm("small", 0.5, 1e-3),
    "small-.5-omega": Arm("small", 0.5, 1e-3, by_omega=True),
    "small-.5-omega-fast": Arm("small", 0.5, 2e-3, by_omega=True),
    "small-.5-omega-warm": Arm("small", 0.5, 2e-3, by_omega=True, warmup=50),
    "small-.5-omega-learned": Arm("small", 0.5, 1e-3, by_omega=True, policy="learned"),
    "small-.5-omega-dimensions": Arm("small", 0.5, 1e-3, by_omega=True, policy="learned", dimensions=True),
    "small-layer-omega": Arm("small", 1.0, 1e-3, by_omega=True, policy="layer"),
    "small-quick": Arm("small", 0.5, 1e-3, by_omega=True, optimiser="adamw-quick"),
    "small-nadam": Arm("small", 0.5, 1e-3, by_omega=True, optimiser="nadam"),
    "small-muon": Arm("small", 0.5, 1e-3, by_omega=True, optimiser="muon"),
    "small-muon-fast": Arm("small", 0.5, 4e-3, by_omega=True, optimiser="muon"),
    "middle-.1": Arm("middle", 0.1, 1e-3, steps=300),
    "middle-.1-omega": Arm("middle", 0.1, 1e-3, by_omega=True, steps=300),
    "middle-layer-omega": Arm("middle", 0.3, 1e-3, by_omega=True, policy="layer", steps=300),
    "middle-warm": Arm("middle", 0.1, 2e-3, by_omega=True, warmup=50, steps=300),
    "middle-omega-learned": Arm("middle", 0.1, 1e-3, by_omega=True, policy="learned", steps=300),
    "middle-quick": Arm("middle", 0.1, 1e-3, by_omega=True, optimiser="adamw-quick", steps=300),
    "middle-muon": Arm("middle", 0.1, 1e-3, by_omega=True, optimiser="muon", steps=300),
    "large-.05": Arm("large", 0.05, 5e-4, steps=150),
    "large-.05-omega": Arm("large", 0.05, 5e-4, by_omega=True, steps=150),
    "large-.05-omega-fast": Arm("large", 0.05, 1e-3, by_omega=True, steps=150),
    "large-layer-omega": Arm("large", 0.15, 5e-4, by_omega=True, policy="layer", steps=150),
    "large-.05-omega-warm": Arm("large", 0.05, 1e-3, by_omega=True, warmup=50, steps=150),
    "large-omega-learned": Arm("large", 0.05, 5e-4, by_omega=True, policy="learned", steps=150),
    "large-quick": Arm("large", 0.05, 5e-4, by_omega=True, optimiser="adamw-quick", steps=150),
    "large-muon": Arm("large", 0.05, 5e-4, by_omega=True, optimiser="muon", steps=150),
    "large-muon-fast": Arm("large", 0.05, 1e-3, by_omega=True, optimiser="muon", steps=150),
    "paper-omega": PAPER,
    "paper-omega-fast": replace(PAPER, outer_rate=1.2e-4),
    "paper-muon": replace(PAPER, optimiser="muon"),
    "paper-muon-fast": replace(PAPER, outer_rate=1.2e-4, optimiser="muon"),
}
PLAIN, OURS = ("small-.01-slower", "small-.01"), "small-.5-omega"


def main() -> None:
    """Run the arms and report."""
    began, options = time.perf_counter(), arguments()
    names = list(ARMS) if options.arms == ["all"] else options.arms or [*PLAIN, OURS]
    results: dict[str, dict[str, Any]] = {}
    # Fresh processes: a forked one would inherit torch's threads in whatever state they are.
    workers = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(names), os.cpu_count() or 1), workers) as pool:
        for name, result in zip(names, pool.map(_arm, names, [options] * len(names)), strict=True):
            results[name] = result
            print(row(name, result), file=sys.stderr)
    source = options.data.name if options.data else "made data"
    notes = [
        f"PSNR after 1, 5 and {FIT_STEPS} steps on the test scans of {source}; 'chosen by' is the validation scans' "
        f"after {FIT_STEPS}; of the paper's size the first {PAPER.held_out} of each split",
        "arms ran side by side, one thread each; CPU seconds are a process's own",
    ]
    name, table = "outer_steps_arms" if options.arms else "outer_steps", [row(n, r) for n, r in results.items()]
    common.report(name, options.short, began, results, claims(results), table, notes)
    if options.arms and not options.short:
        from benchmarks.outer_curves import draw

        draw(by_network(results), common.RESULTS / f"{name}-{common.machine_name()}.png")


def by_network(results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """The arms' curves for a picture: an arm's name there has its PSNR after all fit steps."""
    curves: dict[str, dict[str, Curve]] = {}
    for name, result in results.items():
        network = ARMS[name].network
        label = f"{result['psnr'][-1]:.2f} dB" if result["psnr"] else "collapsed"
        curves.setdefault(network, {})[f"{name.removeprefix(f'{network}-')} ({label})"] = result["curve"]
    return curves


def claims(results: Mapping[str, dict[str, Any]]) -> list[common.Claim]:
    """Ours over the plain arm that the validation split prefers, on the test split."""
    if not {OURS, *PLAIN} <= results.keys():
        return []
    plain = max(PLAIN, key=lambda name: results[name]["validation"])
    gain = results[OURS]["psnr"][-1] - results[plain]["psnr"][-1]
    what = "small network, PSNR after 600 outer steps over α = .01 with its outer rate tuned, dB"
    return [common.Claim(what, gain, 6.0, True)]


def _arm(name: str, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    return run(ARMS[name], scans(options.data, options.short), options.short)


def arguments() -> argparse.Namespace:
    """``--short`` is the one of all benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", type=Path, help="a MedMNIST .npz file of 28 x 28 grey images")
    parser.add_argument("--arms", nargs="+", choices=["all", *ARMS], help="which arms to run")
    return parser.parse_args()


def scans(path: Path | None, short: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test scans in [0, 1], (scan, point, channel)."""
    if path is None:
        made = made_scans(256)
        return made[:192], made[192:224], made[224:]
    with np.load(path, allow_pickle=False) as file:
        splits = [file[f"{split}_images"].reshape(-1, SIDE**2, 1) for split in ("train", "val", "test")]
    train, validation, test = (torch.from_numpy(split.astype(np.float32) / 255) for split in splits)
    return (train, validation[:16], test[:16]) if short else (train, validation[:256], test)


def made_scans(count: int) -> Tensor:
    """Smooth scans that differ: sums of a few random waves."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.rand(count, 6, 4, generator=generator)
    phase = 3 * torch.einsum("swc,pc->swp", 4 * waves[..., :2] - 2, grid((SIDE, SIDE))) + 6.3 * waves[..., 2:3]
    return (0.5 + 0.12 * (waves[..., 3:] * phase.sin()).sum(1)).clamp(0, 1)[..., None]


def run(arm: Arm, splits: tuple[Tensor, Tensor, Tensor], short: bool) -> dict[str, Any]:
    """Train and measure one arm. The curve holds (outer step, CPU seconds, PSNR of the outer loss)."""
    train, validation, test = splits
    steps = 4 if short else arm.steps
    settings = Train(rate=arm.outer_rate, rate_by_omega=arm.by_omega, steps=steps, warmup_steps=arm.warmup)
    model = learner(arm)
    outer = optimiser(model, settings, arm.optimiser)
    order, spent = torch.Generator().manual_seed(1), 0.0
    recent: list[float] = []
    curve: list[tuple[int, float, float]] = []
    for step in range(steps):
        batch = train[torch.randint(len(train), (arm.batch,), generator=order)]
        began = time.process_time()
        loss, norm = outer_step(model, outer, batch, step, settings)
        spent += time.process_time() - began
        recent = [*recent[-24:], loss]
        if (step + 1) % max(1, steps // 12) == 0 or step + 1 == steps:
            curve.append((step + 1, spent, decibel(sum(recent) / len(recent))))
        if not math.isfinite(loss) or not math.isfinite(norm):
            ended = f"gradient norm {norm} at outer step {step + 1}"
            return {"psnr": [], "validation": -math.inf, "curve": curve, "ended": ended, "steps": steps}
    found = {
        "psnr": held_out(model, test[: arm.held_out]),
        "validation": held_out(model, validation[: arm.held_out])[-1],
    }
    return {**found, "curve": curve, "ended": "whole", "steps": steps, "rates": some(model.rates)}


def learner(arm: Arm) -> MetaLearner:
    """The network before its first step."""
    spec = SirenSpec.linear(coords=2, channels=1, **NETWORKS[arm.network])  # type: ignore[arg-type]
    start = {
        "scalar": arm.inner_rate,
        "layer": layer_rates(spec, arm.inner_rate),
        "learned": torch.full((INNER_STEPS, spec.latent if arm.dimensions else 1), arm.inner_rate),
    }[arm.policy]
    params = init_params(spec, torch.Generator().manual_seed(0))
    return MetaLearner(spec, params, grid((SIDE, SIDE)), start, learn_rates=arm.policy == "learned")


def optimiser(model: MetaLearner, settings: Train, kind: str) -> torch.optim.Optimizer:
    """The outer optimiser: of training, or one that training does not have."""
    groups = parameter_groups(model, settings)
    if kind == "nadam":
        return torch.optim.NAdam(groups, lr=settings.rate)
    if kind == "adamw-quick":
        return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95))
    return outer_optimizer(model, settings.model_copy(update={"optimizer": kind}))


def outer_step(
    model: MetaLearner, outer: torch.optim.Optimizer, batch: Tensor, step: int, settings: Train
) -> tuple[float, float]:
    """One outer step as training takes it; its loss and gradient norm."""
    model.zero_grad()
    start = torch.zeros(len(batch), model.spec.latent, requires_grad=True)
    loss = model(batch, start, context_sets(SIDE**2, RATIO, INNER_STEPS, seed=0, outer_step=step)).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or float("inf"))
    for group in outer.param_groups:
        group["lr"] = learning_rate(step, settings) * group[SHARE]
    outer.step()
    return loss.item(), float(norm)


@torch.no_grad()
def held_out(model: MetaLearner, test: Tensor) -> list[float]:
    """Mean PSNR (dB) after 1, 5 and all fit steps."""
    network = fold(model.spec, model.params())
    chunks, points = Chunks.sized(model.spec.hidden), torch.arange(SIDE**2)
    found = []
    for part in test.split(64):
        start = torch.zeros(len(part), model.spec.latent)
        objective = Objective(network, model.coordinates, part, start, chunks)
        path = descend(objective, [points] * FIT_STEPS, model.rates)
        at = [losses(objective.at(path[h]), clamp=True) for h in (1, 5, FIT_STEPS)]
        found.append(torch.stack([psnr_of_mse(error).nan_to_num(0) for error in at], 1))
    return [float(mean) for mean in torch.cat(found).mean(0)]


def row(name: str, result: Mapping[str, Any]) -> dict[str, object]:
    """An arm as a line of the table."""
    arm, curve, psnr = ARMS[name], result["curve"], result["psnr"]
    numbers = [f"{value:.2f}" for value in psnr] or ["-"] * 3
    last = curve[-1] if curve else (0, 0.0, 0.0)
    warmup = f", warm-up {arm.warmup}" if arm.warmup else ""
    return {
        "network": arm.network,
        "inner rate": f"{arm.inner_rate:g} {arm.policy}" + (" a dimension" if arm.dimensions else ""),
        "outer rate": f"{arm.outer_rate:g}" + (" by ω" if arm.by_omega else "") + warmup,
        "optimiser": arm.optimiser,
        "outer steps": last[0],
        "CPU s": f"{last[1]:.0f}",
        "dB after 1 step": numbers[0],
        "5": numbers[1],
        "20": numbers[2],
        "chosen by": f"{result['validation']:.2f}",
        "ended": result["ended"],
    }


def some(rates: Tensor) -> list[float]:
    """The rates' mean over latent dimensions, as a flat list."""
    return [float(value) for value in rates.detach().mean(-1).flatten()]


def decibel(loss: float) -> float:
    """A loss as PSNR."""
    return -10 * math.log10(max(loss, 1e-30)) if math.isfinite(loss) else 0.0


if __name__ == "__main__":
    main()
