"""Which settings to start from: held-out PSNR of the published presets and of a grid of ours, on three data sets.

Every arm trains a small network from the same seed on the same batches, on one thread, and fits the validation scans as
its own settings say. All have K, L and P of their data set unless they are named for another depth or width. An arm
is scored after the same number of outer steps, and, where its steps cost more or less than those of the plain arm of
ours, again after as many steps as fit into the same process CPU time (the clock does not count what else the machine
does). ``--tell`` trains the arm that the validation scans prefer with several seeds and measures the test scans, once,
beside the best published arm, PCA of as many components and the mean training scan.

Arms that are done are kept in ``--keep``, line by line, and not run again.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import common

# isort: split
import torch
from torch import Tensor

from benchmarks import preset_scans
from benchmarks.common import Kept
from benchmarks.preset_scans import Scans
from medfuncta_dist.config.presets import PRESETS
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.evaluation.pca import components_of, pca_mse
from medfuncta_dist.latents.fit import new_fitter
from medfuncta_dist.meta import learner
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.network.core_settings import fit_settings, new_learner
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.optim.outer_optimizers import outer_optimizer
from medfuncta_dist.training.optim.parameter_groups import SHARE

Sections = dict[str, dict[str, Any]]

SAME_COST = 0.35
"""An arm whose outer step costs within this share of the plain arm's has the same score after equal minutes."""
PLAIN = "ours"


@dataclass(frozen=True)
class Small:
    """A data set's network, of a size that one CPU core trains in a minute, and what all of its arms share."""

    scans: Callable[[argparse.Namespace], Scans]
    field: dict[str, Any]
    meta: dict[str, Any]
    train: dict[str, Any]

    @property
    def steps(self) -> int:
        """Outer steps that all arms take."""
        return int(self.train["steps"])


def omega(first: float, last: float) -> dict[str, float]:
    """The two ends of a schedule."""
    return {"omega_first": first, "omega_last": last}


def of_the_quickstart() -> Small:
    """The SIREN that the quickstart had; the outer rate that its settings were chosen against."""
    field = {"layers": 5, "hidden": 64, "latent": 512, **omega(20, 80)}
    meta = {"inner_steps": 5, "inner_rate": 0.3, "selection_ratio": 0.25}
    train = {"batch": 8, "steps": 500, "rate": 1e-3, "warmup_steps": 10}
    return Small(lambda _: preset_scans.quickstart_slices(), field, meta, train)


SMALL = {
    "1d": Small(
        lambda _: preset_scans.electrocardiogram(),
        {"layers": 5, "hidden": 64, "latent": 64},
        {"inner_steps": 5, "selection_ratio": 1.0},
        {"batch": 16, "steps": 300},
    ),
    "2d": Small(
        lambda options: preset_scans.pneumonia(options.data),
        {"layers": 5, "hidden": 64, "latent": 128},
        {"inner_steps": 5, "selection_ratio": 0.5},
        {"batch": 16, "steps": 200},
    ),
    "3d": Small(
        lambda _: preset_scans.mni_cubes(),
        {"layers": 5, "hidden": 64, "latent": 256},
        {"inner_steps": 5, "selection_ratio": 0.1},
        {"batch": 4, "steps": 60},
    ),
    "quickstart": of_the_quickstart(),
}


@dataclass(frozen=True)
class Arm:
    """``base``: ``ours``, or the beginning of a preset's name; ``changes`` go over it, section by section."""

    base: str = PLAIN
    changes: Sections = field(default_factory=dict)
    only: tuple[str, ...] = ("1d", "2d", "3d")
    """The data sets that it is tried on."""


TUNED = {"train": {"rate": 1e-3}}
DEEP = {"layers": 8, "hidden": 64}
"""Depth and width of the paper's 1D network."""
ARMS = {
    "paper": Arm("paper"),
    "paper, β 1e-3, ω 20 to 80": Arm("paper", {**TUNED, "field": omega(20, 80)}),
    "public code": Arm("public-code"),
    "public code, β 1e-3": Arm("public-code", TUNED),
    PLAIN: Arm(only=tuple(SMALL)),
    "no residual": Arm(changes={"field": {"residual": False}}),
    "α .05": Arm(changes={"meta": {"inner_rate": 0.05}}),
    "α .05, β alike": Arm(changes={"meta": {"inner_rate": 0.05}, "train": {"rate_by_omega": False}}),
    "β 3e-3": Arm(changes={"train": {"rate": 3e-3}}, only=("1d",)),
    "α .02": Arm(changes={"meta": {"inner_rate": 0.02}}, only=("1d",)),
    "α .05, muon": Arm(changes={"meta": {"inner_rate": 0.05}, "train": {"optimizer": "muon"}}),
    "α .1": Arm(changes={"meta": {"inner_rate": 0.1}}, only=("1d", "2d")),
    "α .05, ω 30 to 120": Arm(changes={"meta": {"inner_rate": 0.05}, "field": omega(30, 120)}, only=("1d",)),
    "α .05, no residual": Arm(changes={"meta": {"inner_rate": 0.05}, "field": {"residual": False}}, only=("1d",)),
    "α .05, first layer modulated": Arm(
        changes={"meta": {"inner_rate": 0.05}, "field": {"modulate_first": True}}, only=("1d",)
    ),
    "α by layer": Arm(changes={"meta": {"rate_policy": "layer", "inner_rate": 1.0}}),
    "β alike in all layers": Arm(changes={"train": {"rate_by_omega": False}}),
    "muon": Arm(changes={"train": {"optimizer": "muon"}}, only=tuple(SMALL)),
    "ω 10 to 40": Arm(changes={"field": omega(10, 40)}, only=tuple(SMALL)),
    "ω 30 to 120": Arm(changes={"field": omega(30, 120)}),
    "first layer modulated": Arm(changes={"field": {"modulate_first": True}}),
    "β 2e-3, warm-up": Arm(changes={"train": {"rate": 2e-3, "warmup_steps": 20}}, only=tuple(SMALL)),
    "width 96": Arm(changes={"field": {"hidden": 96}}, only=("quickstart",)),
    "α .15": Arm(changes={"meta": {"inner_rate": 0.15}}, only=("quickstart",)),
    "8 layers": Arm(changes={"field": DEEP}, only=("1d",)),
    "8 layers, ω 20 to 200": Arm(changes={"field": DEEP | omega(20, 200)}, only=("1d",)),
}
PUBLISHED = [name for name, arm in ARMS.items() if arm.base != PLAIN]


def main() -> None:
    """Run what is asked for, and report."""
    began, options = time.perf_counter(), arguments()
    kept = Kept(None if options.short else options.keep)
    for axes in options.axes:
        scans = _scans(axes, options)
        for name in chosen_arms(axes, options):
            kept.once(f"{axes}/{name}", lambda n=name, a=axes, s=scans: validated(n, a, s, kept, options.short))
        if options.tell:
            kept.results[f"{axes}/told"] = told(axes, scans, kept, range(1 if options.short else options.seeds))
    report(kept.results, options.short, began)


def arguments() -> argparse.Namespace:
    """``--short`` is the one of all benchmarks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", type=Path, help="PneumoniaMNIST's .npz file, for 2d")
    parser.add_argument("--axes", nargs="+", choices=SMALL, default=["1d", "2d", "3d"], help="which data sets")
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="which arms; all of the data set by default")
    parser.add_argument("--tell", action="store_true", help="then tell the test scans of the arm that was best")
    parser.add_argument("--seeds", type=int, default=3, help="how often that arm is trained for it")
    parser.add_argument("--keep", type=Path, help="a file of finished arms, to go on with")
    options = parser.parse_args()
    if "2d" in options.axes and not options.data and not options.short:
        parser.error("2d needs --data, PneumoniaMNIST's .npz file")
    return options


SHORT_AXES = {"1d": 1, "2d": 2, "3d": 3, "quickstart": 2}


def _scans(axes: str, options: argparse.Namespace) -> Scans:
    return preset_scans.made_scans(SHORT_AXES[axes]) if options.short else SMALL[axes].scans(options)


def chosen_arms(axes: str, options: argparse.Namespace) -> list[str]:
    """Names of the arms to run on a data set, the plain one first: others are held against its time."""
    names = options.arms or (["paper", PLAIN] if options.short else ARMS)
    return [PLAIN, *(name for name in names if name != PLAIN and axes in ARMS[name].only)]


def run_of(name: str, axes: str, shape: Sequence[int], steps: int, seed: int = 0) -> RunFile:
    """An arm as the run file that would train so."""
    arm, small = ARMS[name], SMALL[axes]
    preset = PRESETS[f"{arm.base}-{axes}"] if arm.base != PLAIN else OURS
    shared = {
        "field": small.field,
        "meta": small.meta,
        "train": small.train | {"steps": steps, "seed": seed},
        "fit": {},
    }
    sections = {s: {**preset.get(s, {}), **shared[s], **arm.changes.get(s, {})} for s in shared}
    if omegas := sections["field"].get("omegas"):
        sections["field"]["omegas"] = omegas[: sections["field"]["layers"] - 1]
    data = {"source": "none", "shape": list(shape)}
    return RunFile.model_validate({"name": "presets", "storage": "/none", "data": data, **sections})


OURS: Sections = {"field": omega(20, 80), "train": {"rate": 1e-3}}
"""What arms of ours change: α follows ω, β is by ω, AdamW with a cosine, Gauss-Newton fit, all by default."""


@dataclass(frozen=True)
class Trained:
    """A trained arm: its network with its inner rates, the CPU seconds that its outer steps took, how it ended."""

    run: RunFile
    network: learner.Trained
    coordinates: Tensor
    seconds: float
    ended: str

    def psnr(self, scans: Tensor) -> float:
        """Mean PSNR (dB) of scans that are fitted as the run file says; a scan that is not finite counts as 0 dB."""
        network, own = self.network, self.run.fit.rate is None
        settings = fit_settings(self.run)
        fitter = new_fitter(network.spec, network.params, self.coordinates, settings, network.extras, own)
        found = fitter.fit(scans)
        return float(torch.where(found.finite, found.psnr, 0).mean())


def trained(run: RunFile, scans: Tensor) -> Trained:
    """Train as the run file says; the outer steps are timed, on one thread."""
    model, order = new_learner(run), torch.Generator().manual_seed(run.train.seed + 1)
    outer, points = outer_optimizer(model, run.train), run.data.points
    seconds, ended = 0.0, "whole"
    for step in range(run.train.steps):
        batch = scans[torch.randint(len(scans), (run.train.batch,), generator=order)]
        began = time.process_time()
        contexts = context_sets(
            points, run.meta.selection_ratio, run.meta.inner_steps, seed=run.train.seed, outer_step=step
        )
        model.zero_grad()
        loss = model(batch, torch.zeros(len(batch), model.spec.latent, requires_grad=True), contexts).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.train.clip or math.inf)
        for group in outer.param_groups:
            group["lr"] = learning_rate(step, run.train) * group[SHARE]
        outer.step()
        seconds += time.process_time() - began
        if not (math.isfinite(loss.item()) and math.isfinite(float(norm))):
            ended = f"not finite at outer step {step + 1}"
            break
    return Trained(run, model.trained(model.params(), [scans]), model.coordinates, seconds, ended)


def validated(name: str, axes: str, scans: Scans, kept: Kept, short: bool) -> dict[str, Any]:
    """An arm's scores on validation scans: after equal outer steps, and after equal minutes."""
    steps = 4 if short else SMALL[axes].steps
    found = trained(run_of(name, axes, scans.shape, steps), scans.train)
    result = {"steps": steps, "seconds": found.seconds, "validation": found.psnr(scans.val), "ended": found.ended}
    plain = kept.results.get(f"{axes}/{PLAIN}", result)
    share = plain["seconds"] / found.seconds
    if abs(share - 1) <= SAME_COST or found.ended != "whole":
        return {**result, "steps_in_same_time": steps, "validation_in_same_time": result["validation"]}
    fewer = max(1, round(steps * share))
    again = trained(run_of(name, axes, scans.shape, fewer), scans.train)
    return {**result, "steps_in_same_time": fewer, "validation_in_same_time": again.psnr(scans.val)}


def told(axes: str, scans: Scans, kept: Kept, seeds: Sequence[int]) -> dict[str, Any]:
    """The arm that is best on validation scans after equal minutes, and what it is held against, on test scans."""
    mine = of_equal_minutes(axes, kept.results)
    ours, published = (preferred({n: r for n, r in mine.items() if (n in PUBLISHED) == b}) for b in (False, True))
    flat = [scans.train.flatten(1).numpy(), scans.test.flatten(1).numpy()]
    components = components_of(SMALL[axes].field["latent"], *flat[0].shape)
    return {
        "chosen": ours,
        "test": [on_test(ours, axes, scans, kept, seed) for seed in seeds] if ours else [],
        "published": published,
        "published_test": on_test(published, axes, scans, kept, seeds[0]) if published else None,
        "components": components,
        "pca_test": float(psnr(pca_mse(flat[0].copy(), flat[1], components)).mean()),
        "mean_scan_test": decibel(scans.test - scans.train.mean(0)),
        "scans": {"train": len(scans.train), "val": len(scans.val), "test": len(scans.test)},
    }


def of_equal_minutes(axes: str, results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The arms of a data set with the score and steps that count: where the time differs by no more than the clock's
    noise, those of equal steps, though an earlier call may have noted others."""
    mine = {n.partition("/")[2]: r for n, r in results.items() if n.startswith(f"{axes}/") and "validation" in r}
    same = {n for n, r in mine.items() if abs(mine[PLAIN]["seconds"] / r["seconds"] - 1) <= SAME_COST}
    equal = {n: {"steps_in_same_time": r["steps"], "validation_in_same_time": r["validation"]} for n, r in mine.items()}
    return {n: {**r, **(equal[n] if n in same else {})} for n, r in mine.items()}


def preferred(results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The arm with the best validation scans after equal minutes; None where there is no arm."""
    return max(results, key=lambda name: float(results[name]["validation_in_same_time"]), default=None)


def on_test(name: str, axes: str, scans: Scans, kept: Kept, seed: int) -> float:
    """PSNR (dB) of the test scans after as many steps as the arm was chosen by; kept like all results."""
    steps = of_equal_minutes(axes, kept.results)[name]["steps_in_same_time"]
    key = f"{axes}/{name}/seed {seed}, {steps} steps"
    kept.once(
        key, lambda: {"test": trained(run_of(name, axes, scans.shape, steps, seed), scans.train).psnr(scans.test)}
    )
    return float(kept.results[key]["test"])


def decibel(error: Tensor) -> float:
    """Errors (scan, …) as mean PSNR."""
    return float((-10 * error.flatten(1).square().mean(1).clamp(min=1e-10).log10()).mean())


def report(results: Mapping[str, dict[str, Any]], short: bool, began: float) -> None:
    """Every arm as a row; claims and a line each where test scans were measured."""
    rows = [
        row(axes, n, r)
        for axes in SMALL
        if f"{axes}/{PLAIN}" in results
        for n, r in of_equal_minutes(axes, results).items()
    ]
    ends = {name.partition("/")[0]: result for name, result in results.items() if "chosen" in result}
    claims = [claim for axes, end in ends.items() for claim in claims_of(axes, end)]
    notes = [
        *(line(axes, end) for axes, end in ends.items()),
        "PSNR is the mean over scans in dB; a fit that is not finite counts as 0 dB. CPU seconds are of the outer "
        f"steps alone, on one thread; other work on the machine makes them differ at the same arithmetic, and up to "
        f"{SAME_COST:.0%} is taken as equal.",
        "Arms may have been measured in several calls: the seconds below are those of the last.",
        "CPUs train small networks in minutes. What holds at the paper's sizes waits for a GPU.",
    ]
    common.report("presets", short, began, results, claims, rows, notes)


def claims_of(axes: str, end: Mapping[str, Any]) -> list[common.Claim]:
    """The chosen arm on test scans, over the best published arm and over PCA."""
    if not end["test"]:
        return []
    mean = sum(end["test"]) / len(end["test"])
    over = {f"PCA of {end['components']} components": end["pca_test"]}
    if end["published_test"] is not None:
        over["the best published arm"] = end["published_test"]
    return [
        common.Claim(f"{axes}, test scans, dB over {name}", mean - other, 0.0, True) for name, other in over.items()
    ]


def line(axes: str, end: Mapping[str, Any]) -> str:
    """What was measured on test scans, in a sentence."""
    test = ", ".join(f"{value:.2f}" for value in end["test"])
    published = f"'{end['published']}' {end['published_test']:.2f}" if end["published"] else "none"
    counts = ", ".join(f"{number} {split}" for split, number in end["scans"].items())
    return (
        f"{axes} ({counts}), test scans: chosen '{end['chosen']}' {test} dB ({len(end['test'])} seeds); best published "
        f"arm {published}; PCA of {end['components']} components {end['pca_test']:.2f}; mean training scan "
        f"{end['mean_scan_test']:.2f}"
    )


def row(axes: str, arm: str, result: Mapping[str, Any]) -> dict[str, object]:
    """An arm as a line of the table."""
    return {
        "data": axes,
        "arm": arm,
        "outer steps": result["steps"],
        "CPU s": f"{result['seconds']:.0f}",
        "validation dB": f"{result['validation']:.2f}",
        "steps in equal time": result["steps_in_same_time"],
        "validation dB then": f"{result['validation_in_same_time']:.2f}",
        "ended": result["ended"],
    }


if __name__ == "__main__":
    main()
