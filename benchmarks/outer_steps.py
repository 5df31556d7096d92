"""Fewer outer steps: held-out PSNR against outer steps and time, for inner-rate policies and outer optimisers.

Each arm trains a network from the same seed on the same batches and then fits held-out scans: all coordinates, 20 plain
steps at its own inner rates. ``--data`` takes a MedMNIST file (train_images, test_images); without it, scans are made.
The default runs the arms of the claim; ``--arms`` runs any others by name, or ``all``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from medfuncta_dist.config.run_file import Train
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import FieldSpec, init_params
from medfuncta_dist.meta.chunks import Chunks
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.folded import fold
from medfuncta_dist.meta.inner_gradient import losses
from medfuncta_dist.meta.inner_rates import layer_rates
from medfuncta_dist.meta.losses import psnr_of_mse
from medfuncta_dist.meta.meta_gradient import descend
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.training.groups import SHARE, parameter_groups
from medfuncta_dist.training.schedule import learning_rate

SIDE, BATCH, INNER_STEPS, RATIO, FIT_STEPS = 28, 16, 5, 0.5, 20
NETWORKS = {
    "small": {"layers": 5, "hidden": 64, "latent": 128, "omega_first": 20.0, "omega_last": 80.0},
    "middle": {"layers": 6, "hidden": 96, "latent": 128, "omega_first": 20.0, "omega_last": 120.0},
    "large": {"layers": 8, "hidden": 128, "latent": 128, "omega_first": 20.0, "omega_last": 200.0},
}


@dataclass(frozen=True)
class Arm:
    """A way to train. ``policy`` and ``by_omega`` are ``meta.rate_policy`` and ``train.rate_by_omega``."""

    network: str
    inner_rate: float
    outer_rate: float
    by_omega: bool = False
    policy: str = "scalar"
    steps: int = 600
    warmup: int = 0


ARMS = {
    "small-.01-slower": Arm("small", 0.01, 5e-4),
    "small-.01": Arm("small", 0.01, 1e-3),
    "small-.01-faster": Arm("small", 0.01, 2e-3),
    "small-.01-fastest": Arm("small", 0.01, 4e-3),
    "small-.5": Arm("small", 0.5, 1e-3),
    "small-.5-omega": Arm("small", 0.5, 1e-3, by_omega=True),
    "small-.5-omega-fast": Arm("small", 0.5, 4e-3, by_omega=True),
    "small-.5-omega-learned": Arm("small", 0.5, 1e-3, by_omega=True, policy="learned"),
    "small-layer-omega": Arm("small", 1.0, 1e-3, by_omega=True, policy="layer"),
    "middle-.1": Arm("middle", 0.1, 1e-3, steps=150),
    "middle-.1-omega": Arm("middle", 0.1, 1e-3, by_omega=True, steps=150),
    "large-.1": Arm("large", 0.1, 1e-3, steps=150),
    "large-.05": Arm("large", 0.05, 5e-4, steps=150),
    "large-.05-omega": Arm("large", 0.05, 5e-4, by_omega=True, steps=150),
}
PLAIN, OURS = ("small-.01-slower", "small-.01"), "small-.5-omega"


def main() -> None:
    """Run the arms one after the other and report."""
    torch.set_num_threads(1)  # torch was imported before common could say so
    began, options = time.perf_counter(), arguments()
    train, test = scans(options.data, options.short)
    names = list(ARMS) if options.arms == ["all"] else options.arms or [*PLAIN, OURS]
    results: dict[str, dict[str, object]] = {}
    for name in names:
        results[name] = run(ARMS[name], train, test, options.short)
        print(row(name, results[name]), file=sys.stderr)
    claims = []
    if OURS in results and all(name in results for name in PLAIN):
        gain = results[OURS]["psnr"][-1] - max(results[name]["psnr"][-1] for name in PLAIN)
        claims = [common.Claim("small network, PSNR after 600 outer steps over the best α = .01, dB", gain, 6.0, True)]
    source = options.data.name if options.data else "made data"
    notes = [f"PSNR after 1, 5 and {FIT_STEPS} steps on {len(test)} held-out scans of {source}"]
    name, table = "outer_steps_arms" if options.arms else "outer_steps", [row(n, r) for n, r in results.items()]
    common.report(name, options.short, began, results, claims, table, notes)


def arguments() -> argparse.Namespace:
    """``--short`` is the one of all benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", type=Path, help="a MedMNIST .npz file of 28 x 28 grey images")
    parser.add_argument("--arms", nargs="+", choices=["all", *ARMS], help="which arms to run")
    return parser.parse_args()


def scans(path: Path | None, short: bool) -> tuple[Tensor, Tensor]:
    """Training and held-out scans in [0, 1], (scan, point, channel)."""
    if path is None:
        made = made_scans(256)
        return made[:192], made[192:]
    with np.load(path, allow_pickle=False) as file:
        splits = [file[f"{split}_images"].reshape(-1, SIDE**2, 1) for split in ("train", "test")]
    train, test = (torch.from_numpy(split.astype(np.float32) / 255) for split in splits)
    return train, test[:16] if short else test


def made_scans(count: int) -> Tensor:
    """Smooth scans that differ: sums of a few random waves."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.rand(count, 6, 4, generator=generator)
    phase = 3 * torch.einsum("swc,pc->swp", 4 * waves[..., :2] - 2, grid((SIDE, SIDE))) + 6.3 * waves[..., 2:3]
    return (0.5 + 0.12 * (waves[..., 3:] * phase.sin()).sum(1)).clamp(0, 1)[..., None]


def run(arm: Arm, train: Tensor, test: Tensor, short: bool) -> dict[str, object]:
    """Train and measure one arm. The curve holds (outer step, CPU seconds, PSNR of the outer loss)."""
    steps = 4 if short else arm.steps
    settings = Train(rate=arm.outer_rate, rate_by_omega=arm.by_omega, steps=steps, warmup_steps=arm.warmup)
    model = learner(arm)
    adam = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.rate)
    order, recent, curve, spent = torch.Generator().manual_seed(1), [], [], 0.0
    for step in range(steps):
        batch = train[torch.randint(len(train), (BATCH,), generator=order)]
        began = time.process_time()
        loss, norm = outer_step(model, adam, batch, step, settings)
        spent += time.process_time() - began
        recent = [*recent[-24:], loss]
        if (step + 1) % max(1, steps // 12) == 0 or step + 1 == steps:
            curve.append((step + 1, spent, decibel(sum(recent) / len(recent))))
        if not math.isfinite(loss) or not math.isfinite(norm):
            return {
                "psnr": [],
                "curve": curve,
                "ended": f"gradient norm {norm} at outer step {step + 1}",
                "steps": steps,
            }
    return {"psnr": held_out(model, test), "curve": curve, "ended": "whole", "steps": steps, "rates": some(model.rates)}


def learner(arm: Arm) -> MetaLearner:
    """The network before its first step."""
    spec = FieldSpec.linear(coords=2, channels=1, **NETWORKS[arm.network])  # type: ignore[arg-type]
    start = {
        "scalar": arm.inner_rate,
        "layer": layer_rates(spec, arm.inner_rate),
        "learned": torch.full((INNER_STEPS, 1), arm.inner_rate),
    }[arm.policy]
    params = init_params(spec, torch.Generator().manual_seed(0))
    return MetaLearner(spec, params, grid((SIDE, SIDE)), start, learn_rates=arm.policy == "learned")


def outer_step(
    model: MetaLearner, adam: torch.optim.Optimizer, batch: Tensor, step: int, settings: Train
) -> tuple[float, float]:
    """One outer step as training takes it; its loss and gradient norm."""
    for group in adam.param_groups:
        group["lr"] = learning_rate(step, settings) * group[SHARE]
    adam.zero_grad()
    start = torch.zeros(BATCH, model.spec.latent, requires_grad=True)
    loss = model(batch, start, context_sets(SIDE**2, RATIO, INNER_STEPS, seed=0, outer_step=step)).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or float("inf"))
    adam.step()
    return loss.item(), float(norm)


@torch.no_grad()
def held_out(model: MetaLearner, test: Tensor) -> list[float]:
    """Mean PSNR (dB) after 1, 5 and all fit steps."""
    network = fold(model.spec, model.params())
    chunks, points = Chunks.sized(model.spec.hidden), torch.arange(SIDE**2)
    found = []
    for part in test.split(64):
        start = torch.zeros(len(part), model.spec.latent)
        path = descend(network, model.coordinates, part, start, [points] * FIT_STEPS, model.rates, chunks)
        at = [losses(network, model.coordinates, part, path[h], chunks, clamp=True) for h in (1, 5, FIT_STEPS)]
        found.append(torch.stack([psnr_of_mse(error).nan_to_num(0) for error in at], 1))
    return [float(mean) for mean in torch.cat(found).mean(0)]


def row(name: str, result: dict[str, object]) -> dict[str, object]:
    """An arm as a line of the table."""
    arm, curve, psnr = ARMS[name], result["curve"], result["psnr"]
    assert isinstance(curve, list)
    assert isinstance(psnr, list)
    numbers = [f"{value:.2f}" for value in psnr] or ["-"] * 3
    last = curve[-1] if curve else (0, 0.0, 0.0)
    return {
        "network": arm.network,
        "inner rate": f"{arm.inner_rate:g} {arm.policy}",
        "outer rate": f"{arm.outer_rate:g}" + (" by ω" if arm.by_omega else ""),
        "outer steps": last[0],
        "CPU s": f"{last[1]:.0f}",
        "dB after 1 step": numbers[0],
        "5": numbers[1],
        "20": numbers[2],
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
