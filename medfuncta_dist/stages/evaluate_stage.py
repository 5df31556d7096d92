"""The evaluate stage: metrics of every scan, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.evaluation.stored_scores import report_folder
from medfuncta_dist.run.fan_outs import compute_fan_out
from medfuncta_dist.run.stage_progress import open_reporter
from medfuncta_dist.storage.leases.lease import Fence
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import limited


def run_evaluate(run: RunFile, store: ObjectStore, fence: Fence, stages: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate the latent table; the figures of the report."""
    with open_reporter(run, store, "evaluate", fence, stages) as reporter:
        summary = evaluate(run, limited(compute_fan_out(run), reporter.limit_reached), reporter.report, fence=fence)
    return {**summary, "report": store.uri(f"{report_folder(run.name)}/report.html"), "said": _summary_lines(summary)}


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    scores = summary["splits"][summary["split"]]
    ssim = f", SSIM {scores['ssim']['mean']:.3f}" if scores["ssim"] else ""
    spread = f"{scores['psnr']['mean']:.2f} ± {scores['psnr']['std']:.2f} dB"
    lines = [f"evaluate: split {summary['split']}, {scores['psnr']['scans']} scans: PSNR {spread}{ssim}"]
    lines.append(f"          {summary['dataset']['splits_by']}")
    baselines = summary["baselines"]
    if baselines:
        gains = {
            "the training mean": baselines["mean_scan"]["gain"],
            "the nearest training scan": baselines["nearest_scan"]["gain"],
        }
        if pca := baselines["pca"]:
            gains[f"PCA of {pca['components']} components"] = pca["gain"]
        if dct := baselines["dct"]:
            gains[f"DCT of {dct['coefficients']} coefficients"] = dct["gain"]
        lines.append("          " + ", ".join(f"{gain:+.2f} dB over {name}" for name, gain in gains.items()))
    return lines
