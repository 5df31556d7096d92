"""The key ``data.series`` of the run file: what becomes of DICOM series."""

from __future__ import annotations

from typing import Literal

from medfuncta_dist.config.section import Section

Uneven = Literal["quarantine", "resample", "leave_out"]
Unasked = Literal["quarantine", "keep", "leave_out"]


class Series(Section):
    """Single-image DICOM files with one SeriesInstanceUID are one source, in whatever folders they lie. A `shape` of
    three axes, or `slices`, takes its volumes: images of one orientation and spacing at equal distances. Any other
    shape takes its images, with one intensity window for the whole series; the keys below then do nothing.

    `quarantine` lists what makes no volume with the reason, `leave_out` counts it and does not list it.
    """

    mixed: Uneven = "quarantine"
    """Slices at unequal distances. `resample` interpolates between them, at their usual distance."""
    gap: Uneven = "quarantine"
    """Missing slices. `resample` interpolates across the gap."""
    tilted: Uneven = "quarantine"
    """Slices that are shifted against each other (a tilted gantry). `resample` shifts them back, with zeros of the
    intensity window outside."""
    derived: Unasked = "quarantine"
    """Images that were made from others (the first value of ImageType is DERIVED). `keep` takes them like others."""
    localizer: Unasked = "quarantine"
    """Localizer images. `keep` takes them like others."""
    other: Literal["quarantine", "leave_out"] = "quarantine"
    """Whatever else makes no volume: a single image, an image without position, a second image of the same identifier,
    images at one place that nothing tells apart; and DICOM files that are no images: segmentations, doses, reports,
    plans, presentation states."""
