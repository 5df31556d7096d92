"""comparison.html from the comparison's content, with pictures of the scans that lose and gain most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.evaluation.report import Picture
from medfuncta_dist.report_style import pictures
from medfuncta_dist.report_style.report_page import SHORT, page

TEMPLATE = "comparison.html"
MOST_LABELS = 30
"""Rows of the table of labels."""
EXTREMES = {"losers": "Scans that lose most", "gainers": "Scans that gain most"}


@dataclass(frozen=True, eq=False)
class ComparedPicture:
    """A scan in both runs."""

    a: Picture
    b: Picture


def render(content: Mapping[str, Any], shown: Mapping[str, Sequence[ComparedPicture]]) -> str:
    """The page. ``shown``: pictures of the first of the content's ``losers`` and ``gainers``, in their order."""
    labels = list(content["labels"].items())
    return page(
        __package__,
        TEMPLATE,
        f"{content['runs']['a']['name']} and {content['runs']['b']['name']}",
        "comparison",
        content=content,
        labels=labels[:MOST_LABELS],
        labels_left_out=max(0, len(labels) - MOST_LABELS),
        extremes=[(title, _with_images(content[name], shown.get(name, ()))) for name, title in EXTREMES.items()],
        facts=_facts(content["runs"]),
        short=SHORT,
    )


def _with_images(
    scans: Sequence[Mapping[str, Any]], shown: Sequence[ComparedPicture]
) -> list[tuple[Mapping[str, Any], dict[str, str]]]:
    """The first scans, those with pictures."""
    return [(scan, _images(picture)) for scan, picture in zip(scans, shown, strict=False)]


def _images(scan: ComparedPicture) -> dict[str, str]:
    if scan.a.original.ndim == 2:
        return {name: pictures.lines(one.original, one.reconstruction) for name, one in (("a", scan.a), ("b", scan.b))}
    planes = {
        "original": pictures.plane(scan.a.original, scan.a.upright),
        "a": pictures.plane(scan.a.reconstruction, scan.a.upright),
        "b": pictures.plane(scan.b.reconstruction, scan.b.upright),
    }
    return {name: pictures.png_uri(pictures.grey(plane)) for name, plane in planes.items()}


def _facts(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Rows of what each run is and takes."""
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "Field": lambda run: run["field"],
        "Latent": lambda run: f"{run['latent']['numbers']:,} numbers ({run['latent']['type']})",
        "Bytes of a latent": lambda run: f"{run['latent']['bytes']:,}",
        "Latent table, stored": lambda run: f"{run['table_bytes']:,} bytes",
        "Shared network": lambda run: f"{run['network']['bytes']:,} bytes",
        "Scan": lambda run: " × ".join(map(str, run["shape"])) + " points",
        "Scans with a latent": lambda run: f"{run['fitted']:,}",
        "Quarantined, flagged": lambda run: f"{run['quarantined']:,}, {run['flagged']:,}",
        "Data set": lambda run: f"{run['dataset']['name']}, digest {run['dataset']['digest'][:SHORT]}…",
        "Network digest": lambda run: f"{run['network']['digest'][:SHORT]}…",
    }
    return [(name, told(runs["a"]), told(runs["b"])) for name, told in rows.items()]
