"""The stage prior: a generative model over the run's latents. It is beside the others: a run is whole without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.prior.judgement import why_refused
from medfuncta_dist.prior.prior_driver import PriorSummary, train_prior
from medfuncta_dist.run.stage_progress import open_reporter
from medfuncta_dist.stages.preflight import check_latents
from medfuncta_dist.stages.readiness import require_fitted
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore


def run_prior(run: RunFile, store: ObjectStore, fence: Fence, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Train the prior of the latent table as it is; what its samples are worth."""
    check_latents(run, store)
    require_fitted(run, store)
    with open_reporter(run, store, "prior", fence, stages) as reporter:
        summary = train_prior(
            run,
            on_progress=reporter.report,
            notify=reporter.notify,
            limit_reached=reporter.limit_reached,
            fence=fence,
        )
    return {**asdict(summary), "said": _summary_lines(summary, run.prior.most_copied)}


def _summary_lines(summary: PriorSummary, limit: float) -> list[str]:
    found, of = summary.judgement, f"prior {summary.digest[:12]}"
    loss = "" if summary.held_out_loss is None else f", held-out loss {summary.held_out_loss:.3f}"
    near = found["nearest_to_samples"]["median"], found["nearest_to_held_out"]["median"]
    lines = [
        f"prior: {summary.steps} steps on latents of {summary.numbers} numbers{loss}; {of}",
        f"       nearest training scan: {near[0]:.4f} from a sample, {near[1]:.4f} from a held-out scan (medians, root "
        "mean square of values)",
        f"       {found['copied']:.1%} of {found['samples']} samples are nearer to a training scan than all but "
        f"{found['by_chance']:.0%} of held-out scans",
    ]
    if why := why_refused(found, limit):
        lines.append(f"       `sample` will refuse (prior.most_copied is {limit:.1%}): {why}")
    if (probed := found["probe"]) is not None:
        best = [probed[name][-1] for name in ("trained_on_real", "trained_on_samples")]
        scores = " and ".join(
            f"accuracy {one['accuracy']:.3f}, macro F1 {one['macro_f1']:.3f} when trained on {name}"
            for one, name in zip(best, ("real scans", "samples"), strict=True)
        )
        lines.append(f"       {best[0]['classifier']} on {probed['held_out']} held-out scans: {scores}")
    return lines
