from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from medfuncta_dist.evaluation.latent_map.map_sample import MOST_POINTS
from medfuncta_dist.evaluation.latent_map.map_section import LatentMap, map_section
from medfuncta_dist.evaluation.latent_map.projections import Projections
from medfuncta_dist.evaluation.latent_map.thumbnails import thumbnail_grid
from tests.unit.evaluation.made_scores import scores
from tests.unit.evaluation.test_report import Page

SCANS = 12


def shown(**changes: Any) -> LatentMap:
    rng = np.random.default_rng(0)
    places = Projections(rng.random((SCANS, 2)), (0.4, 0.2), changes.pop("umap", None))
    shape = changes.pop("shape", (6, 5))
    pictures = [rng.integers(0, 255, shape, np.uint8) for _ in range(SCANS)]
    known: dict[str, Any] = {"rows": scores(SCANS), "places": places, "thumbnails": pictures, "of": 40}
    return LatentMap(**{**known, **changes})


class Fields(Page):
    """With the inputs and styles of a page."""

    def __init__(self, text: str) -> None:
        self.inputs: list[dict[str, Any]] = []
        super().__init__(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag == "input":
            self.inputs.append(dict(attributes))
        else:
            super().handle_starttag(tag, attributes)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        """An SVG's element without content."""


def test_every_scan_is_a_button_that_says_what_it_is_with_its_picture():
    rows = scores(SCANS)
    page = Fields(map_section(shown()))
    assert page.open == []
    buttons = [one for one in page.inputs if one["name"] == "map-scan"]
    assert len(buttons) == len(page.images) == SCANS
    told = {one["aria-label"] for one in buttons}
    for row in rows.to_pylist():
        assert f"Scan {row['key'][:12]}, label {row['labels'][0]}, test, {row['psnr']:.2f} dB" in told
    assert all(image["alt"].startswith("Scan ") for image in page.images)
    assert "12 of 40 scans" in page.words
    assert "40.0 % and 20.0 %" in page.words


def test_scans_go_from_left_to_right_so_that_arrow_keys_do_not_jump():
    places = [float(x) for x in re.findall(r"--x:([\d.]+)", map_section(shown()))]
    assert len(places) == SCANS
    assert places == sorted(places)


def test_colours_can_be_chosen_and_labels_come_first():
    page = Fields(map_section(shown()))
    choices = [one for one in page.inputs if one["name"] == "map-colour"]
    assert [one["id"] for one in choices] == ["map-label", "map-split", "map-psnr"]
    assert ["checked" in one for one in choices] == [True, False, False]
    without = Fields(map_section(shown(rows=scores(SCANS, label=lambda i: None))))
    choices = [one for one in without.inputs if one["name"] == "map-colour"]
    assert [one["id"] for one in choices] == ["map-split", "map-psnr"]
    assert "checked" in choices[0]


def test_umap_is_a_second_plane_where_there_is_one():
    text = map_section(shown(umap=np.random.default_rng(1).random((SCANS, 2))))
    assert [one["id"] for one in Fields(text).inputs if one["name"] == "map-plane"] == ["map-pca", "map-umap"]
    assert len(re.findall(r"--u:[\d.]+;--v:[\d.]+", text)) == SCANS
    assert "map-plane" not in map_section(shown())


def test_without_pictures_there_are_none():
    page = Fields(map_section(shown(thumbnails=[])))
    assert not page.images
    assert "decoded" not in page.words
    assert len([one for one in page.inputs if one["name"] == "map-scan"]) == SCANS


def test_a_signal_is_a_line():
    text = map_section(shown(shape=(20,)))
    assert text.count("<polyline") == SCANS
    assert len(re.findall(r'points="([^"]+)"', text)[0].split()) == 20


def test_a_thousand_scans_of_noise_take_less_than_four_megabytes():
    rng, grid = np.random.default_rng(0), thumbnail_grid((512, 512), 1, MOST_POINTS)
    noise = [rng.integers(0, 256, grid, np.uint8) for _ in range(MOST_POINTS)]
    places = Projections(rng.random((MOST_POINTS, 2)), (0.4, 0.2), rng.random((MOST_POINTS, 2)))
    whole = LatentMap(scores(MOST_POINTS), places, noise, 10**6)
    assert len(map_section(whole).encode()) < 4e6


@pytest.mark.parametrize("word", ["<script", "url(", "http:", "https:", "onclick"])
def test_it_runs_nothing_and_loads_nothing(word: str):
    assert word not in map_section(shown())
