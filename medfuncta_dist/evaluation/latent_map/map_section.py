"""The map as a section of the report: HTML and style alone. Points are radio buttons, so that a pointer, a finger and
the arrow keys choose a scan without a script. Data in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from medfuncta_dist.evaluation.label_names import label_name
from medfuncta_dist.evaluation.latent_map.map_colours import by_name, by_psnr
from medfuncta_dist.evaluation.latent_map.projections import Projections
from medfuncta_dist.report_style.pictures import png_uri
from medfuncta_dist.report_style.report_page import SHORT, fragment

TEMPLATE = "latent_map.html"
WAVE = (96, 40)
"""Width and height in which a signal is drawn."""


@dataclass(frozen=True, eq=False)
class LatentMap:
    """The scans of a map, in one order. ``rows``: of the scores (``metrics.parquet``); ``of``: scans of the table."""

    rows: pa.Table
    places: Projections
    thumbnails: Sequence[np.ndarray]
    """One for each scan, or none at all."""
    of: int


def map_section(shown: LatentMap) -> Markup:
    """The section's HTML."""
    labels = [label_name(one) for one in shown.rows["labels"].to_pylist()]
    colours = {
        "label": by_name(labels) if any(labels) else None,
        "split": by_name(shown.rows["split"].to_pylist()),
        "psnr": by_psnr(shown.rows["psnr"].to_numpy()),
    }
    legends = {name: found[1] for name, found in colours.items() if found is not None}
    return fragment(
        __package__,
        TEMPLATE,
        legends=legends,
        points=_points(shown, labels, {name: found[0] for name, found in colours.items() if found is not None}),
        explained=shown.places.explained,
        umap=shown.places.umap is not None,
        of=shown.of,
        pictures=bool(shown.thumbnails),
        short=SHORT,
    )


def _points(shown: LatentMap, labels: Sequence[str], colours: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """From left to right as PCA has them, so that the arrow keys do not jump about."""
    places = shown.places
    rows = shown.rows.to_pylist()
    points = [
        {
            "key": row["key"][:SHORT],
            "split": row["split"],
            "label": labels[i],
            "psnr": row["psnr"],
            "below_min": row["below_min"],
            "pca": places.pca[i].tolist(),
            "umap": None if places.umap is None else places.umap[i].tolist(),
            "colours": {name: of[i] for name, of in colours.items()},
            "picture": _picture(shown.thumbnails[i]) if shown.thumbnails else None,
        }
        for i, row in enumerate(rows)
    ]
    return sorted(points, key=lambda point: (point["pca"], point["key"]))


def _picture(thumbnail: np.ndarray) -> dict[str, str]:
    """A PNG, or the points of a line."""
    return {"line": _line(thumbnail)} if thumbnail.ndim == 1 else {"image": png_uri(thumbnail)}


def _line(values: np.ndarray) -> str:
    width, height = WAVE
    across = np.linspace(1, width - 1, len(values))
    up = height - 1 - (height - 2) * (values / 255)
    return " ".join(f"{x:.0f},{y:.0f}" for x, y in zip(across, up, strict=True))
