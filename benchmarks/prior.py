"""Priors over latents: what their samples are worth, and from when on they copy training scans.

A basis field is trained on the chest X-rays of ``fields.py`` (P = 128), and priors on its latents: with the default
settings, with fewer steps, and on few of the training scans. Of each: the loss on held-out latents, the share of
samples that are as near to a training scan as only 1 % of held-out scans are, and a classifier trained on samples and
tested on held-out scans, beside the same one trained on as many real scans. Two rows check the test for copies
itself: a prior of 64 scans learns them by heart, and the "samples" of the row copies are training scans with noise.

Everything runs in one process, on one thread, with the product's learner, feed and judgement; the training loop with
Ray and checkpoints is not measured here. What is done is kept in ``--keep``, line by line, and not run again.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Claim, Kept, report

# isort: split
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.field_methods import Clock, trained
from benchmarks.field_sets import SETS, Case, basis_sections, made, run_of
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.prior_section import Prior as Settings
from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latents.image_curvature import image_curvature
from medfuncta_dist.prior.denoiser import DenoiserSpec, init_params
from medfuncta_dist.prior.drawing import Drawn, draw
from medfuncta_dist.prior.judgement import judge, judged_samples
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from medfuncta_dist.prior.prior_feed import ClassedLatents, PriorFeed
from medfuncta_dist.prior.prior_files import Prior
from medfuncta_dist.prior.prior_latents import Appearance, Classes
from medfuncta_dist.prior.prior_learner import PriorLearner
from medfuncta_dist.prior.prior_subject import PriorSubject
from medfuncta_dist.prior.sample_files import MARK
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.world import World

PRIORS = {
    "default": (Settings(), None),
    "a third of the steps": (Settings(steps=Settings().steps // 3), None),
    "64 training scans": (Settings(), 64),
}
"""By name: settings, and how many training scans; None for all."""
NOISE = 0.02
"""Of the copies, relative to each number's deviation."""


@dataclass(frozen=True)
class Latents:
    """What priors are trained and judged on."""

    run: RunFile
    network: SharedNetwork
    coordinates: MetricCoordinates
    classes: Classes
    train: ClassedLatents
    held_out: ClassedLatents


def main() -> None:
    """Train, judge, report."""
    began, options = time.perf_counter(), arguments()
    torch.set_num_threads(1)
    latents, kept = latents_of(options), Kept(None if options.short else options.keep)
    kept.once("copies", lambda: {"judgement": judged(copies(latents), latents)})
    for name, (settings, scans) in PRIORS.items():
        chosen = settings.model_copy(update={"steps": 8, "width": 16}) if options.short else settings
        picture = options.picture if name == "default" else None
        kept.once(name, partial(measured, some_of(latents, scans), chosen, picture))
    report("prior", options.short, began, kept.results, claims(kept.results), table(kept.results), notes(latents))


def arguments() -> argparse.Namespace:
    """``--short`` is the one of all benchmarks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", type=Path, help="PneumoniaMNIST's .npz file")
    parser.add_argument("--keep", type=Path, help="a file of what is done, to go on with")
    parser.add_argument("--picture", type=Path, help="a PNG of the first 64 samples of the default prior")
    options = parser.parse_args()
    if not options.short and options.data is None:
        parser.error("a whole run needs --data, PneumoniaMNIST's .npz file")
    return options


def latents_of(options: argparse.Namespace) -> Latents:
    """A basis field trained as in ``fields.py``, and latents of all scans in the prior's coordinates."""
    whole = SETS["pneumonia"]
    case = Case("pneumonia", *(made("pneumonia", whole) if options.short else (whole, *_real(options))))
    run = run_of(case, basis_sections(case, case.set.start, case.latent), 0, case.scans.shape)
    found, _ = trained(run, case.scans.train)
    splits = {name: found.encode(getattr(case.scans, name)) for name in ("train", "val", "test")}
    assert case.labels is not None
    labels = {name: [int(label) for label in case.labels[name]] for name in splits}
    network = found.network
    shared = SharedNetwork(network.spec, network.params, {"shape": list(case.scans.shape)}, {}, "", "", network.extras)
    coordinates = MetricCoordinates.of(
        splits["train"], image_curvature(shared, splits["train"].numpy(), case.scans.shape), Settings().numbers
    )
    classes = Classes.of(labels["train"])
    held_out = torch.cat([splits["val"], splits["test"]])
    return Latents(
        run,
        shared,
        coordinates,
        classes,
        ClassedLatents(coordinates.whitened(splits["train"]), classes.indices(labels["train"])),
        ClassedLatents(coordinates.whitened(held_out), classes.indices([*labels["val"], *labels["test"]])),
    )


def _real(options: argparse.Namespace) -> Sequence[Any]:
    whole = SETS["pneumonia"]
    assert whole.labels is not None
    return whole.scans(options), whole.labels(options)


def some_of(latents: Latents, scans: int | None) -> Latents:
    """With so many training scans, evenly chosen; None for all."""
    whole = latents.train
    if scans is None or scans >= len(whole):
        return latents
    rows = torch.arange(scans) * len(whole) // scans
    return replace(latents, train=ClassedLatents(whole.whitened[rows], whole.classes[rows]))


def measured(latents: Latents, settings: Settings, picture: Path | None) -> dict[str, Any]:
    """A prior trained so, and judged; losses on held-out latents on the way. ``picture``: where its first samples are
    drawn."""
    clock, drawing = Clock(), Clock()
    with clock:
        prior, losses = trained_prior(latents, settings)
    with drawing:
        drawn = draw(prior, judged_samples(latents.train), seed=settings.seed)
    if picture is not None:
        write_picture(drawn, latents, picture)
    return {
        "settings": settings.model_dump(),
        "seconds": clock.seconds,
        "drawing_ms": 1000 * drawing.seconds / len(drawn.classes),
        "held_out_losses": losses,
        "judgement": judged(drawn, latents),
    }


def trained_prior(latents: Latents, settings: Settings) -> tuple[Prior, list[tuple[int, float]]]:
    """With the product's feed and learner, by plain torch on one rank."""
    batch = min(settings.batch, len(latents.train))
    spec = DenoiserSpec(
        len(latents.coordinates.deviations), len(latents.classes.labels), settings.width, settings.blocks
    )
    run = latents.run.model_copy(update={"prior": settings})
    run = PriorSubject(run, "0" * 64, spec, latents.classes, batch, "").placed(run)
    feed = PriorFeed(run, "", latents.train, latents.held_out, latents.classes.none, World(0, 1, torch.device("cpu")))
    learner = PriorLearner(spec, init_params(spec, torch.Generator().manual_seed(settings.seed)))
    losses = _steps(learner, feed, run.train)
    params = {name: p.detach() for name, p in learner.params().items()}
    appearance = Appearance((0.0, 1.0), (1.0,), False)
    made_of = ("0" * 64, settings.model_dump(), "", "", {})
    return Prior(spec, params, latents.coordinates, latents.classes, appearance, *made_of), losses


def _steps(learner: PriorLearner, feed: PriorFeed, train: Train) -> list[tuple[int, float]]:
    outer, losses = torch.optim.AdamW(learner.parameters(), weight_decay=0.0), []
    with feed.batches(0) as batches:
        for step, placed in enumerate(batches):
            for group in outer.param_groups:
                group["lr"] = learning_rate(step, train)
            outer.zero_grad()
            learner(*feed.inputs(placed.targets, placed.contexts)).mean().backward()
            torch.nn.utils.clip_grad_norm_(learner.parameters(), train.clip or math.inf)
            outer.step()
            if (step + 1) % train.validate_steps == 0 or step + 1 == train.steps:
                with torch.no_grad():
                    losses.append((step + 1, float(learner.losses_of(learner.params(), *feed.validation()).mean())))
    return losses


def write_picture(drawn: Drawn, latents: Latents, path: Path) -> None:
    """Eight rows of eight samples, at twice the points per axis."""
    shape = [2 * points for points in latents.run.data.shape]
    values = reconstruct(latents.network, latents.coordinates.latents(drawn.whitened[:64]).numpy(), shape)[:, 0]
    sheet = values.reshape(8, 8, *shape).swapaxes(1, 2).reshape(8 * shape[0], 8 * shape[1])
    told = PngInfo()
    told.add_text("Description", MARK)
    Image.fromarray((255 * sheet).round().astype("uint8")).save(path, pnginfo=told)


def copies(latents: Latents) -> Drawn:
    """Training scans, a little changed."""
    noise = torch.randn(latents.train.whitened.shape, generator=torch.Generator().manual_seed(0))
    return Drawn(latents.train.whitened + NOISE * noise, latents.train.classes)


def judged(drawn: Drawn, latents: Latents) -> dict[str, Any]:
    """As the stage judges."""
    return judge(drawn, latents.train, latents.held_out, latents.coordinates.deviations, latents.classes.none)


def claims(results: dict[str, dict[str, Any]]) -> list[Claim]:
    """What is promised of the default settings, and of the test for copies."""
    found, limit = results["default"]["judgement"], Settings().most_copied
    scores = scored(found)
    return [
        Claim("share of samples as near to a training scan as 1 % of held-out scans", found["copied"], limit, False),
        Claim("the same share of noisy copies of training scans", results["copies"]["judgement"]["copied"], 0.99, True),
        Claim("and of a prior of 64 scans", results["64 training scans"]["judgement"]["copied"], limit, True),
        Claim("accuracy from samples over that from real scans", scores[1] / max(scores[0], 1e-9), 0.95, True),
    ]


def scored(judgement: dict[str, Any]) -> tuple[float, float]:
    """Accuracy of logistic regression on held-out scans: trained on real scans, and on samples."""
    probed = judgement["probe"] or {"trained_on_real": [{"accuracy": 0.0}], "trained_on_samples": [{"accuracy": 0.0}]}
    return probed["trained_on_real"][-1]["accuracy"], probed["trained_on_samples"][-1]["accuracy"]


def table(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a prior."""
    rows = []
    for name, found in results.items():
        judgement, settings = found["judgement"], found.get("settings", {})
        real, samples = scored(judgement)
        rows.append(
            {
                "prior": name,
                "steps": settings.get("steps", ""),
                "width": settings.get("width", ""),
                "CPU s": found.get("seconds", ""),
                "held-out loss": found["held_out_losses"][-1][1] if "held_out_losses" in found else "",
                "nearest, sample": judgement["nearest_to_samples"]["median"],
                "nearest, held-out": judgement["nearest_to_held_out"]["median"],
                "copied": judgement["copied"],
                "accuracy, real": real,
                "accuracy, samples": samples,
            }
        )
    return rows


def notes(latents: Latents) -> list[str]:
    """What the columns mean."""
    return [
        f"{len(latents.train)} training and {len(latents.held_out)} held-out scans, {latents.run.field.latent} numbers "
        "a scan. Held-out scans are those of the validation and the test split.",
        "held-out loss: mean squared error of the velocity; 1 is that of a prior that knows only means and variances.",
        "nearest: median distance to the nearest training scan, root mean square of values in [0, 1].",
        "accuracy: logistic regression on held-out scans, trained on as many samples as real scans.",
    ]


if __name__ == "__main__":
    main()
