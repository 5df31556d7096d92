"""Scans as small pictures for a report: PNG for images and volumes, line plots (SVG) for one-dimensional scans."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from medfuncta_dist.report_style.report_figure import ACCENT, INK, WARM, figure, svg_uri

GAP = 2  # points between the three planes of a volume
LEAST_ERROR_SCALE = 0.05  # of the intensity window: below this, noise would be painted as failure

Values = Float[np.ndarray, "channel *spatial"]


def png_uri(picture: UInt8[np.ndarray, "row column ..."]) -> str:
    """A PNG as a data URI, for an ``img`` that loads nothing."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def plane(values: Values, upright: bool) -> Float[np.ndarray, "row column ..."]:
    """A 2D or 3D scan as one picture in [0, 1]: (row, column), or (row, column, 3) when it has three channels.

    ``upright``: the axes are RAS+ (right, front, up); they are turned so that the picture stands as a reader expects.
    A volume is shown by its three middle slices: axial, coronal, sagittal. Of two, four or more channels, the first.
    """
    picture = np.moveaxis(values, 0, -1) if values.shape[0] == 3 else values[0]
    spatial = values.ndim - 1
    if spatial == 2:
        return np.rot90(picture) if upright else picture
    middles = [n // 2 for n in values.shape[1:]]
    return _side_by_side([np.rot90(np.take(picture, middles[axis], axis)) for axis in (2, 1, 0)])


def _side_by_side(planes: Sequence[np.ndarray]) -> np.ndarray:
    rows = max(len(p) for p in planes)
    padded = []
    for p in planes:
        above = (rows - len(p)) // 2
        pads = [(above, rows - len(p) - above), (0, GAP)] + [(0, 0)] * (p.ndim - 2)
        padded.append(np.pad(p, pads))
    return np.concatenate(padded, axis=1)[:, :-GAP]


def grey(picture: Float[np.ndarray, "row column ..."]) -> UInt8[np.ndarray, "row column ..."]:
    """[0, 1] → 0..255."""
    return np.asarray(np.rint(np.clip(picture, 0, 1) * 255), np.uint8)


def error_scale(errors: Sequence[np.ndarray]) -> float:
    """The absolute error shown brightest, common to all pictures: the 99.5th percentile, rounded up to 0.05."""
    top = max((float(np.quantile(e, 0.995)) for e in errors), default=0.0)
    return max(LEAST_ERROR_SCALE, math.ceil(top / 0.05 - 1e-9) * 0.05)


def heat(error: Float[np.ndarray, "row column ..."], top: float) -> UInt8[np.ndarray, "row column 3"]:
    """Absolute error → colour, 0 dark and ``top`` bright; channels are averaged."""
    flat = error.mean(axis=-1) if error.ndim == 3 else error
    colours = np.asarray(matplotlib.colormaps["magma"](np.clip(flat / top, 0, 1)))
    return (colours[..., :3] * 255).astype(np.uint8)


def heat_bar() -> str:
    """The colours of ``heat`` from 0 to its top, as a data URI to be stretched."""
    return png_uri(heat(np.linspace(0, 1, 128)[None], 1.0))


def lines(original: Values, reconstruction: Values) -> str:
    """A one-dimensional scan and its reconstruction over position, and their difference below; a data URI."""
    drawing, (above, below) = figure(4.6, 2.3, rows=2, heights=(3, 1))
    position = np.arange(original.shape[1])
    above.plot(position, original[0], color=INK, linewidth=1.6, label="original")
    dashes = (0, (4, 1.5))
    above.plot(position, reconstruction[0], color=ACCENT, linewidth=1.2, linestyle=dashes, label="reconstruction")
    above.legend(loc="upper right", frameon=False, fontsize=7, ncols=2)
    above.set_ylim(-0.05, 1.25)
    above.set_xticks([])
    below.fill_between(position, reconstruction[0] - original[0], color=WARM, linewidth=0)
    below.axhline(0, color=INK, linewidth=0.4)
    below.set_ylabel("error", fontsize=7)
    below.set_xlabel("sample", fontsize=7)
    return svg_uri(drawing)
