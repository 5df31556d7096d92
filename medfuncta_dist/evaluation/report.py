"""The report: one HTML file. Data in, text out.

It shows scans, and so is patient data. It holds no names of files or patients: scans are identified by keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation import charts
from medfuncta_dist.evaluation.charts import Curve
from medfuncta_dist.evaluation.latent_map.map_section import LatentMap, map_section
from medfuncta_dist.evaluation.metrics import natural
from medfuncta_dist.evaluation.probe_section import probe_section
from medfuncta_dist.evaluation.report_summary import MASKED
from medfuncta_dist.fields.field_kinds import FieldSpec
from medfuncta_dist.report_style import pictures
from medfuncta_dist.report_style.report_figure import THIRD
from medfuncta_dist.report_style.report_page import PACKING, SHORT, page

TEMPLATE = "report.html"  # Jinja
FITTING, QUARANTINING = ("packed", "fitted", "quarantined", "flagged"), ("packing", "fitting")  # in this order
MOST_LABELS = 30  # rows of the table of labels; combinations of many labels could fill a book


@dataclass(frozen=True, eq=False)
class Picture:
    """A scan to show. Arrays: (channel, *spatial) in [0, 1]; ``upright``: axes are (right, up), not (row, column)."""

    key: str
    original: np.ndarray
    reconstruction: np.ndarray
    upright: bool
    psnr: float
    ssim: float | None
    labels: tuple[int, ...]
    below_min: bool


@dataclass(frozen=True, eq=False)
class ReportData:
    """The content of a report. ``summary`` is the content of summary.json; ``psnr`` holds each split's values in dB."""

    run: RunFile
    summary: Mapping[str, Any]
    spec: FieldSpec
    code_version: str
    pictures: Sequence[Picture] = ()
    psnr: Mapping[str, np.ndarray] = field(default_factory=dict)
    loss: Curve = ()
    held_out_psnr: Curve = ()
    latent_map: LatentMap | None = None
    probe: Mapping[str, Any] | None = None
    """The content of probe.json; None where no probe has been run."""


def render(data: ReportData) -> str:
    """The report as HTML."""
    shown, scale = _shown(data.pictures)
    counts = data.summary["dataset"]["counts"]
    return page(
        __package__,
        TEMPLATE,
        data.run.name,
        "report",
        run=data.run,
        summary=data.summary,
        cards=cards(data),
        pictures=shown,
        error_scale=scale,
        heat_bar=pictures.heat_bar(),
        histogram=charts.histogram(data.psnr, data.run.fit.min_psnr) if data.psnr else None,
        curves=_curves(data),
        baselines=_baselines(data.summary["baselines"]),
        labels=_by_name(data.summary["labels"])[:MOST_LABELS],
        labels_left_out=max(0, len(data.summary["labels"]) - MOST_LABELS),
        groups=_group_rows(data.summary.get("groups", {})),
        latent_map=None if data.latent_map is None else map_section(data.latent_map),
        probe=probe_section(data.probe, data.summary["latents"], bool(data.summary["labels"])),
        packing=[(words, counts[name]) for name, words in PACKING.items() if name in counts],
        fitting=[(name, data.summary["counts"][name]) for name in FITTING],
        reasons=_reasons(data.summary["quarantine_reasons"]),
        settings=_settings(data),
        one_dimensional=len(data.run.data.shape) == 1,
        short=SHORT,
        masked=any(MASKED in figures for figures in data.summary["splits"].values()),
    )


def cards(data: ReportData) -> list[dict[str, str]]:
    """The key numbers: value, unit, what it is, and a remark."""
    split, counts = data.summary["split"], data.summary["counts"]
    psnr, ssim = (data.summary["splits"][split][name] for name in ("psnr", "ssim"))
    found = [
        _card(f"{psnr['mean']:.2f}", "dB", f"PSNR, {split} split", f"± {psnr['std']:.2f} over {psnr['scans']} scans"),
    ]
    if ssim is not None:
        found.append(_card(f"{ssim['mean']:.3f}", "", "SSIM", f"± {ssim['std']:.3f}; 1 is identical"))
    if (baselines := data.summary["baselines"]) is not None:
        found.append(
            _card(f"{baselines['mean_scan']['gain']:+.1f}", "dB", "gain on mean scan", "of the training split")
        )
        gain = baselines["nearest_scan"]["gain"]
        found.append(_card(f"{gain:+.1f}", "dB", "gain on nearest scan", "of the training split"))
    share = f"of {counts['packed']:,} packed; {counts['quarantined']:,} quarantined, {counts['flagged']:,} flagged"
    return [*found, _card(f"{counts['fitted']:,}", "", "scans with a latent", share)]


def _card(value: str, unit: str, what: str, remark: str) -> dict[str, str]:
    return {"value": value.replace("-", "−"), "unit": unit, "what": what, "remark": remark}


def _shown(scans: Sequence[Picture]) -> tuple[list[dict[str, Any]], float]:
    """Each scan's pictures as data URIs, and the error that is shown brightest."""
    scale = pictures.error_scale([np.abs(scan.original - scan.reconstruction) for scan in scans])
    places = [place(i, len(scans)) for i in range(len(scans))]
    return [{"scan": s, "place": p, **_images(s, scale)} for s, p in zip(scans, places, strict=True)], scale


def _images(scan: Picture, scale: float) -> dict[str, str]:
    if scan.original.ndim == 2:
        return {"lines": pictures.lines(scan.original, scan.reconstruction)}
    original, reconstruction = (pictures.plane(v, scan.upright) for v in (scan.original, scan.reconstruction))
    return {
        "original": pictures.png_uri(pictures.grey(original)),
        "reconstruction": pictures.png_uri(pictures.grey(reconstruction)),
        "error": pictures.png_uri(pictures.heat(np.abs(original - reconstruction), scale)),
    }


def place(index: int, count: int) -> str:
    """Where the picture stands among all scans of the split: pictures go from the worst PSNR to the best."""
    if index == 0:
        return "worst" if count > 1 else "one scan"
    return "best" if index == count - 1 else f"better than {round(100 * index / (count - 1))} %"


def _curves(data: ReportData) -> list[dict[str, str]]:
    drawn = []
    if len(data.loss) > 1:
        uri = charts.curve(data.loss, "loss (mean squared error)", log=True, colour=THIRD)
        drawn.append({"title": "Training loss", "image": uri})
    if len(data.held_out_psnr) > 1:
        uri = charts.curve(data.held_out_psnr, "PSNR (dB)")
        drawn.append({"title": "PSNR on held-out scans, as measured while training", "image": uri})
    return drawn


def _baselines(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of the table of baselines, with bars as long as their PSNR. Summaries of earlier versions lack some."""
    if found is None:
        return []
    names = {"mean_scan": "mean training scan", "nearest_scan": "nearest training scan"}
    if pca := found.get("pca"):
        names["pca"] = f"PCA, {pca['components']:,} components"
    if dct := found.get("dct"):
        names["dct"] = f"DCT, {dct['coefficients']:,} coefficients"
    names["reconstruction"] = "reconstruction"
    top = max(found[name]["psnr"]["mean"] for name in names)
    return [
        {
            "name": text,
            "psnr": (psnr := found[name]["psnr"]),
            "gain": found[name].get("gain"),
            "bar": max(0.0, 100 * psnr["mean"] / top),
        }
        for name, text in names.items()
    ]


def _group_rows(groups: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """What is known of scans, its value, and the metrics of these scans. Summaries of earlier versions have none."""
    return [(name, value, figures) for name, values in _by_name(groups) for value, figures in _by_name(values)]


def _by_name(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """In one order, whether the summary was just made or comes from JSON, whose keys are sorted as text."""
    return sorted(values.items(), key=lambda item: natural(item[0]))


def _reasons(found: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, int]]:
    """Stage, reason and number of scans: the most frequent reasons of each stage first."""
    ordered = {stage: sorted(found[stage].items(), key=lambda item: (-item[1], item[0])) for stage in QUARANTINING}
    return [(stage, reason, count) for stage, reasons in ordered.items() for reason, count in reasons]


def _inner_loop(run: RunFile) -> str:
    if run.fit.method == "exact":
        return f"an exact solve with ridge {run.meta.ridge:g}"
    return f"{run.meta.inner_steps} inner steps"


def _method(run: RunFile) -> str:
    fit = run.fit
    if fit.method == "exact":
        return f"one exact solve, ridge {fit.ridge:g}"
    how = f"damping {fit.damping:g}" if fit.method == "gauss-newton" else f"rate {run.fit_rate:g}"
    return f"{fit.steps} steps of {fit.method}, {how}"


def _latent(data: ReportData) -> str:
    """How latents are stored. Earlier versions' summaries do not say."""
    storage = data.summary.get("storage")
    if storage is None:
        return f"{data.spec.latent:,} numbers ({data.run.fit.storage_type})"
    whole = storage["numbers"] == storage["of"]
    numbers = f"{storage['numbers']:,} " + ("numbers" if whole else f"of {storage['of']:,} numbers, the first ones")
    loss = storage["predicted_loss"]
    told = "" if loss is None else f"; predicted loss of storing {loss:.3f} dB"
    size = f"; {storage['bytes_per_scan']:,.0f} bytes per scan in the table" if "bytes_per_scan" in storage else ""
    size += f", and {storage['shared_bytes']:,} shared by all" if storage.get("shared_bytes") else ""
    return f"{numbers} ({storage['type']}){told}{size}"


def _settings(data: ReportData) -> list[tuple[str, str]]:
    run, spec = data.run, data.spec
    points = " × ".join(map(str, run.data.shape))
    channels = f", {run.data.channels} channels" if run.data.channels > 1 else ""
    return [
        ("Scan", f"{points} points{channels} = {run.data.points * run.data.channels:,} values"),
        ("Latent", _latent(data)),
        (
            "Shared network",
            f"{spec.KIND}, {spec.layers} layers, width {spec.hidden}, ω {spec.omegas[0]:g} to {spec.omegas[-1]:g}",
        ),
        (
            "Meta-learning",
            f"{run.train.steps:,} outer steps, batch {run.train.batch}, {_inner_loop(run)}, "
            f"selection ratio {run.meta.selection_ratio:g}",
        ),
        (
            "Fitting",
            f"{_method(run)}, selection ratio {run.fit.selection_ratio:g}; flagged below {run.fit.min_psnr:g} dB",
        ),
        ("Data set", f"{data.summary['dataset']['name']}, digest {data.summary['dataset']['digest'][:SHORT]}…"),
        ("Network digest", f"{data.summary['network']['digest'][:SHORT]}…"),
        ("Code", f"medfuncta-dist {data.code_version}"),
    ]
