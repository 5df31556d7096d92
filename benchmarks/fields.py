"""Kinds of field against linear codes: held-out PSNR at equal numbers per scan, on five small data sets.

For each data set: a meta-learned SIREN with Gauss-Newton fit, the basis field with its exact fit, PCA, PCA of
augmented training scans, a DCT (the coefficients of largest variance over the training scans), and the mean training
scan. The settings of the basis field are searched one after the other, on validation scans (``field_sets.py``); those
of the SIREN are what ``benchmarks/presets.py`` chose. ``--tell`` then trains both with several seeds, scores the test
scans, and draws curves: dB against numbers per scan, against training seconds and against the time of a fit. It also
trains on every second point and scores all of them, and classifies scans from each method's numbers where there are
labels.

Everything runs on one thread; seconds are those of the process, which do not count what else the machine does. What is
done is kept in ``--keep``, line by line, and not run again.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import common

# isort: split
import numpy as np
import torch

from benchmarks import field_curves
from benchmarks.common import Kept
from benchmarks.field_methods import (
    Clock,
    Learned,
    Linear,
    Method,
    cosines,
    cropped,
    decibel,
    draws,
    milliseconds_per_scan,
    odd,
    pca,
    score,
    trained,
    upsampled,
    with_fit,
)
from benchmarks.field_sets import (
    SETS,
    SHORT,
    Case,
    Choice,
    Labels,
    Set,
    augmentation,
    basis_sections,
    made,
    run_of,
)
from benchmarks.preset_scans import Scans
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.probe.probe_results import LATENTS, FeatureSet, Respondents, Trial, run_trial
from medfuncta_dist.probe.question import question_of

FIT_STEPS = (1, 2, 4)
"""Of Gauss-Newton, beside the settings' own."""
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of the outer steps after which curves have a point."""
EACH = ("siren", "basis", "pca", "pca of augmented scans", "dct")


def main() -> None:
    """Run what is asked for, and report."""
    began, options = time.perf_counter(), arguments()
    torch.set_num_threads(1)
    kept = Kept(None if options.short else options.keep)
    for name in options.sets:
        whole = SETS[name]
        case = Case(
            name, *(made(name, whole) if options.short else (whole, whole.scans(options), _labels(whole, options)))
        )
        chosen = searched(case, kept)
        if options.tell:
            tell(case, chosen, kept, options.seeds, options.siren_seeds)
    report(kept.results, options.short, began)


def arguments() -> argparse.Namespace:
    """``--short`` is the one of all benchmarks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", type=Path, help="PneumoniaMNIST's .npz file, for pneumonia")
    parser.add_argument("--sets", nargs="+", choices=SETS, help="which data sets; all of them by default")
    parser.add_argument("--tell", action="store_true", help="then score the test scans, and draw the curves")
    parser.add_argument("--seeds", type=int, default=3, help="how often the chosen basis field is trained for it")
    parser.add_argument("--siren-seeds", type=int, default=3, help="how often the SIREN is trained for it")
    parser.add_argument("--keep", type=Path, help="a file of what is done, to go on with")
    options = parser.parse_args()
    options.sets = options.sets or list(SHORT if options.short else SETS)
    if options.short:
        options.tell, options.seeds, options.siren_seeds = True, 1, 1
    elif "pneumonia" in options.sets and not options.data:
        parser.error("pneumonia needs --data, PneumoniaMNIST's .npz file")
    return options


def _labels(of: Set, options: argparse.Namespace) -> Labels | None:
    return of.labels(options) if of.labels else None


def searched(case: Case, kept: Kept) -> Choice:
    """The best choice on validation scans, one of its settings tried after the other."""
    best, score_of = case.set.start, _validated(case, kept)
    for setting, values in case.set.search.items():
        tried = [best, *(replace(best, **{setting: value}) for value in values)]
        best = max(tried, key=score_of)
    return best


def _validated(case: Case, kept: Kept) -> Callable[[Choice], float]:
    def validated(choice: Choice) -> float:
        key = f"{case.name}/basis, {choice.name}"
        run = run_of(case, basis_sections(case, choice, case.latent), 0, case.scans.shape)
        kept.once(key, lambda: _scored(*trained(run, case.scans.train), case))
        return float(kept.results[key]["validation"])

    return validated


def _scored(method: Learned, seconds: float, case: Case) -> dict[str, Any]:
    return {"seconds": seconds, "validation": decibel(method, case.scans.val)}


def tell(case: Case, chosen: Choice, kept: Kept, seeds: int, siren_seeds: int) -> None:
    """Everything that is measured of the chosen settings, kept under ``<data set>/told/…``."""
    name, scans = f"{case.name}/told", case.scans
    counts = {"train": len(scans.train), "val": len(scans.val), "test": len(scans.test)}
    kept.results[f"{name}/choice"] = {"chosen": chosen.name, "latent": case.latent, "scans": counts}
    kept.once(f"{name}/mean scan", lambda: mean_scan(case))
    for method, code in linear_methods(case).items():
        kept.once(f"{name}/{method}", lambda c=code: linear(case, c))
    for kind, count in (("basis", seeds), ("siren", siren_seeds)):
        sections = basis_sections(case, chosen, case.latent) if kind == "basis" else case.set.siren
        for seed in range(count):
            run = run_of(case, sections, seed, scans.shape)
            kept.once(f"{name}/{kind}/seed {seed}", lambda r=run, s=seed: learned(case, r, whole=s == 0))
    if case.set.half:
        kept.once(f"{name}/half grid", lambda: half_grid(case, chosen))


def mean_scan(case: Case) -> dict[str, Any]:
    """Zero numbers per scan."""
    mean = case.scans.train.mean(0)
    return {split: score(mean[None], getattr(case.scans, s)) for split, s in (("test", "test"), ("validation", "val"))}


def linear_methods(case: Case) -> dict[str, Callable[[], Method]]:
    """The codes that need no network."""
    train, shape, numbers = case.scans.train, case.scans.shape, case.latent
    return {
        "pca": lambda: pca(train, numbers),
        "pca of augmented scans": lambda: pca(draws(train, shape, augmentation(case), case.set.draws), numbers),
        "dct": lambda: cosines(train, shape, numbers),
    }


def linear(case: Case, code: Callable[[], Method]) -> dict[str, Any]:
    """A code's results, and the seconds that making it took."""
    clock = Clock()
    with clock:
        method = code()
    found = results_of(case, method)
    numbers = len(method.rows) if isinstance(method, Linear) else case.latent
    return {"seconds": clock.seconds, "numbers": numbers, **found, "over_numbers": over_numbers(case, method, numbers)}


def results_of(case: Case, method: Method) -> dict[str, Any]:
    """Test and validation dB, the time of a fit, and what a classifier reads from the numbers."""
    scans = case.scans
    found = {
        "test": decibel(method, scans.test),
        "validation": decibel(method, scans.val),
        "fit_ms": milliseconds_per_scan(method, scans.val[:64]),
    }
    return found | ({"probe": classified(method, scans, case.labels)} if case.labels else {})


def classified(method: Method, scans: Scans, labels: Labels) -> list[dict[str, Any]]:
    """What the product's probe says of numbers of the training and test scans, by classifiers without settings."""
    train, test = (method.encode(part).numpy() for part in (scans.train, scans.test))
    asked = [Respondents(labels[split], np.arange(len(labels[split]))) for split in ("train", "test")]
    trial = Trial(question_of(None), *asked, validation=None, classifiers=(), seed=0)
    found = run_trial(trial, [FeatureSet(LATENTS, train, test)], lambda _: None)
    scores = [{name: float(one.resampled[name][0]) for name in ("accuracy", "macro_f1")} for one in found]
    return [{"classifier": one.candidate.name, **each} for one, each in zip(found, scores, strict=True)]


def over_numbers(case: Case, method: Method, most: int) -> list[tuple[int, float]]:
    """(p, validation dB) of the first p numbers."""
    numbers = method.encode(case.scans.val)
    sizes = [p for p in (2**k for k in range(math.ceil(math.log2(most)))) if p < most]
    return [(p, score(method.decode(numbers[:, :p]), case.scans.val)) for p in [*sizes, most]]


def learned(case: Case, run: RunFile, whole: bool) -> dict[str, Any]:
    """A network's results; with ``whole``, its curves too."""
    curve: list[tuple[int, float, float]] = []

    def watch(step: int, seconds: float, network: Learned) -> None:
        curve.append((step, seconds, decibel(network, case.scans.val)))

    steps = sorted({max(1, round(run.train.steps * share)) for share in SHARES} | {1})
    method, seconds = trained(run, case.scans.train, steps, watch) if whole else trained(run, case.scans.train)
    found = {"seconds": seconds, "steps": run.train.steps, "numbers": case.latent}
    if not whole:
        return found | {"test": decibel(method, case.scans.test), "validation": decibel(method, case.scans.val)}
    found |= results_of(case, method) | {"over_seconds": curve}
    if run.field.kind == "basis":
        return found | {"over_numbers": over_numbers(case, method, case.latent)}
    return found | {"over_numbers": [(case.latent, found["validation"])], "over_fit": over_fit(case, method)}


def over_fit(case: Case, method: Learned) -> list[tuple[float, float]]:
    """(ms per scan, validation dB) of fits with fewer steps."""
    fewer = [with_fit(method, steps=steps) for steps in FIT_STEPS]
    return [(milliseconds_per_scan(m, case.scans.val[:64]), decibel(m, case.scans.val)) for m in fewer]


def half_grid(case: Case, chosen: Choice) -> dict[str, Any]:
    """Trained at every second point along each axis; (dB there, dB on all points) of the test scans.

    The grid is cut to odd sides first, so that the coarse grid has the same field of view and shares its points with
    the fine one. A latent has as many numbers per point as at the full grid. ω is chosen on validation scans again.
    """
    whole = odd(case.scans.shape)
    coarse = tuple((n + 1) // 2 for n in whole)
    few = replace(case.scans, shape=coarse, **dict(_splits(case.scans, whole, 2)))
    fine = replace(case.scans, shape=whole, **dict(_splits(case.scans, whole, 1)))
    share = 2 ** len(whole)
    half = replace(case, scans=few, set=replace(case.set, latent=max(2, case.latent // share)))
    found: dict[str, Any] = {"latent": half.latent, "shape": list(coarse), "scored": list(whole)}
    choices = [replace(chosen, features=max(half.latent, chosen.features // share), omega=w) for w in _omegas(chosen)]
    runs = [run_of(half, basis_sections(half, choice, half.latent), 0, coarse) for choice in choices]
    networks = [trained(run, few.train)[0] for run in runs]
    best = max(networks, key=lambda n: score(n.decode_at(n.encode(few.val), whole), fine.val))
    found["omega"] = best.run.field.omega_first
    sections = {**case.set.siren, "field": {**case.set.siren["field"], "latent": half.latent}}
    other = trained(run_of(half, sections, 0, coarse), few.train)[0]
    for name, network in (("basis", best), ("siren", other)):
        numbers = network.encode(few.test)
        found[name] = [score(network.decode(numbers), few.test), score(network.decode_at(numbers, whole), fine.test)]
    for name, code in linear_methods(half).items():
        method = code()
        decoded = method.decode(method.encode(few.test))
        found |= {f"{name}, {how}": _between(decoded, few, fine, how) for how in ("linear", "cosines")}
    return found | {
        f"the coarse scan itself, {how}": _between(few.test, few, fine, how) for how in ("linear", "cosines")
    }


def _splits(scans: Scans, to: Sequence[int], step: int) -> Iterator[tuple[str, torch.Tensor]]:
    for split in ("train", "val", "test"):
        yield split, cropped(getattr(scans, split), scans.shape, to, step).contiguous()


def _omegas(chosen: Choice) -> list[float]:
    return sorted({chosen.omega, chosen.omega / 2})


def _between(decoded: torch.Tensor, few: Scans, fine: Scans, how: str) -> list[float]:
    return [score(decoded, few.test), score(upsampled(decoded, few.shape, how), fine.test)]


def told(results: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """What was told of a data set: method → result, with the learned ones' seeds as a list under ``seeds``."""
    prefix = f"{name}/told/"
    mine = {key.removeprefix(prefix): result for key, result in results.items() if key.startswith(prefix)}
    for kind in ("basis", "siren"):
        seeds = [mine.pop(key) for key in sorted(key for key in mine if key.startswith(f"{kind}/seed "))]
        if seeds:
            mine[kind] = {**seeds[0], "seeds": [seed["test"] for seed in seeds]}
    return mine


def report(results: Mapping[str, dict[str, Any]], short: bool, began: float) -> None:
    """A row per method and data set, claims, a line each, and the curves as a picture."""
    ends = {name: end for name in SETS if "choice" in (end := told(results, name))}
    rows = [
        row(name, end["choice"]["latent"], method, end[method])
        for name, end in ends.items()
        for method in (*EACH, "mean scan")
    ]
    claims = [claim for name, end in ends.items() for claim in claims_of(name, end)]
    lines = [line for name, end in ends.items() for line in lines_of(name, end)]
    common.report("fields", short, began, results, claims, rows, [*lines, *NOTES])
    if ends and not short:
        field_curves.draw(ends, common.RESULTS / f"fields-{common.machine_name()}.png")


NOTES = (
    "PSNR is the mean over scans in dB, values clamped to [0, 1]. The mean scan of PCA and DCT is not among the "
    "numbers per scan, as the networks are not. PCA of few training scans has one component fewer than scans.",
    "CPU seconds: training with its augmentation and the last step, that computes the latent's coordinates; for PCA, "
    "drawing and decomposition. A fit's time leaves out what is prepared once (solver matrix, Jacobian buffers).",
    "Curves are of seed 0 and of validation scans; in the middle of training, the rate has not fallen yet.",
    "Results may have been measured in several calls: the seconds below are those of the last.",
)


def claims_of(name: str, end: Mapping[str, Any]) -> list[common.Claim]:
    """The basis field on test scans, over the others; and what was promised."""
    mean = float(np.mean(end["basis"]["seeds"]))
    least = {"ecg": -0.3}
    claims = [
        common.Claim(f"{name}, test: basis over {other}, dB", mean - end[key]["test"], bound, True)
        for other, key, bound in (
            (f"PCA of {end['pca']['numbers']}", "pca", least.get(name, 0.0)),
            ("PCA of augmented scans", "pca of augmented scans", 0.0),
            ("DCT", "dct", 0.0),
            ("SIREN", "siren", 0.0),
        )
    ]
    return [common.Claim("quickstart, test: basis, dB", mean, 35.5, True), *claims] if name == "quickstart" else claims


def lines_of(name: str, end: Mapping[str, Any]) -> list[str]:
    """What the table has no room for."""
    choice = end["choice"]
    counts = ", ".join(f"{number} {split}" for split, number in choice["scans"].items())
    lines = [f"{name} ({counts}): chosen on validation scans: {choice['chosen']}."]
    if half := end.get("half grid"):
        lines.append(f"{name}, {_half_line(half)}")
    return [*lines, *(f"{name}, {line}" for line in _probe_lines(end))]


def _half_line(half: Mapping[str, Any]) -> str:
    coarse, fine = (" × ".join(map(str, half[key])) for key in ("shape", "scored"))
    pairs = {key: value for key, value in half.items() if key not in ("latent", "shape", "scored", "omega")}
    scores = "; ".join(f"{key} {there:.2f} → {everywhere:.2f}" for key, (there, everywhere) in pairs.items())
    return (
        f"trained on {coarse} and decoded on {fine}, P = {half['latent']}, test dB on the coarse → on the fine grid: "
        f"{scores} (basis: ω {half['omega']:g})."
    )


def _probe_lines(end: Mapping[str, Any]) -> Iterator[str]:
    probes = {method: end[method]["probe"] for method in EACH if "probe" in end[method]}
    for found in zip(*probes.values(), strict=True):
        each = zip(probes, found, strict=True)
        scores = ", ".join(f"{method} {one['accuracy']:.3f} / {one['macro_f1']:.3f}" for method, one in each)
        yield f"{found[0]['classifier']} on the numbers, test accuracy / macro F1: {scores}."


def row(name: str, latent: int, method: str, result: Mapping[str, Any]) -> dict[str, object]:
    """A method as a line of the table."""
    seeds = result.get("seeds", [result["test"]])
    return {
        "data": name,
        "P": latent,
        "method": method,
        "numbers": result.get("numbers", 0),
        "test dB": f"{np.mean(seeds):.2f}",
        "seeds": ", ".join(f"{value:.2f}" for value in seeds) if len(seeds) > 1 else "–",
        "validation dB": f"{result['validation']:.2f}",
        "training CPU s": f"{result['seconds']:.1f}" if "seconds" in result else "–",
        "fit ms per scan": f"{result['fit_ms']:.3g}" if "fit_ms" in result else "–",
    }


if __name__ == "__main__":
    main()
