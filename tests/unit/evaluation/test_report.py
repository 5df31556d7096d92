from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation import metrics
from medfuncta_dist.evaluation.report import Picture, ReportData, cards, place, render
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.report_style.report_page import number
from medfuncta_dist.storage.digest import canonical_json
from tests.writers import structured

SHAPES: dict[int, list[int]] = {1: [40], 2: [12, 10], 3: [8, 9, 7]}


def spread(mean: float, scans: int = 4) -> dict[str, Any]:
    found = metrics.spread(mean + np.linspace(-1, 1, scans))
    assert found is not None
    return found.as_json()


def group(psnr: float) -> dict[str, Any]:
    return {"psnr": spread(psnr), "ssim": spread(0.9), "mse": spread(0.002)}


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "split": "test",
        "splits": {"test": group(28.5), "train": group(31.25)},
        "labels": {"0": group(27.0), "1": group(29.0)},
        "baselines": {
            "scans": 4,
            "reconstruction": {"psnr": spread(28.5)},
            "mean_scan": {"psnr": spread(17.5), "gain": 11.0},
            "nearest_scan": {"psnr": spread(24.0), "gain": 4.5},
            "pca": {"components": 75, "training_scans": 76, "psnr": spread(29.5), "gain": -1.0},
            "dct": {"coefficients": 96, "training_scans": 77, "psnr": spread(27.25), "gain": 1.25},
        },
        "counts": {"packed": 1234, "fitted": 1233, "quarantined": 1, "flagged": 0},
        "dataset": {
            "name": "scans",
            "digest": "d" * 64,
            "counts": {"sources": 3, "scans": 1240},
            "splits_by": "splits by patient",
        },
        "network": {"digest": "e" * 64},
        "latents": "runs/a-run/latents/e-f",
        "quarantine_reasons": {"packing": {"not an image": 6}, "fitting": {"its latent is not finite": 1}},
        "note": None,
        **changes,
    }


def picture(shape: list[int], channels: int = 1, **changes: Any) -> Picture:
    original = np.stack([structured(shape, seed) for seed in range(channels)])
    known = {"upright": False, "psnr": 26.54, "ssim": 0.876, "labels": (1,), "below_min": False}
    return Picture("0123456789abcdef" * 4, original, original * 0.9, **{**known, **changes})


CHARTS: dict[str, Any] = {
    "psnr": {"test": np.linspace(20, 30, 9), "train": np.linspace(25, 35, 20)},
    "loss": [(step, 1 / step) for step in range(1, 200)],
    "held_out_psnr": [(0, 20.0), (100, 25.0)],
}


def data(dimensions: int = 2, **changes: Any) -> ReportData:
    shape = SHAPES[dimensions]
    run = RunFile.model_validate({"name": "a-run", "storage": "/s", "data": {"source": "x", "shape": shape}})
    spec = SirenSpec.linear(coords=dimensions, channels=1, layers=4, hidden=8, latent=77, omega_first=20, omega_last=80)
    known = {
        "pictures": [picture(shape), picture(shape, below_min=True)],
    }
    return ReportData(run, changes.pop("summary", summary()), spec, "1.2.3", **{**known, **changes})


class Page(HTMLParser):
    """Tags that are closed as they were opened, the images, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag not in ("meta", "input"):  # which are never closed
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.words += text


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_report_is_one_well_formed_file_that_loads_nothing(dimensions):
    text = render(data(dimensions, **CHARTS))
    page = Page(text)
    assert page.open == []
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<script|<link", text)
    assert "default-src 'none'; img-src data:" in text
    for image in page.images:
        assert image["alt"]
        kind, body = image["src"].split(";base64,")
        magic = {"data:image/png": b"\x89PNG", "data:image/svg+xml": b"<?xml"}[kind]
        assert base64.b64decode(body, validate=True).startswith(magic)


@pytest.mark.parametrize(("dimensions", "images"), [(1, 2), (2, 6 + 1), (3, 6 + 1)])
def test_every_scan_is_pictured(dimensions, images):
    assert len(Page(render(data(dimensions))).images) == images


def test_charts_are_drawn_of_what_there_is():
    titles = [image["alt"] for image in Page(render(data(pictures=[], **CHARTS))).images]
    assert titles == [
        "Histogram of PSNR by split",
        "Training loss",
        "PSNR on held-out scans, as measured while training",
    ]


def test_the_key_numbers_come_first_and_everything_is_told():
    words = Page(render(data())).words
    assert words.index("28.50") < words.index("Scans and their reconstructions")
    for told in ("+11.0", "+4.5", "1,233", "31.25", "26.54 dB", "0123456789ab", "below fit.min_psnr", "not an image"):
        assert told in words
    for told in (
        "scans found",
        "1,240",
        "its latent is not finite",
        "In this data set: splits by patient.",
        "77 numbers",
        "12 × 10 points",
        "ω 20 to 60",
        "medfuncta-dist 1.2.3",
    ):
        assert told in words


def test_simple_answers_are_told_with_pca_and_dct_and_without():
    words = Page(render(data())).words
    for text in ("PCA, 75 components", "fitted on 76 training scans", "-1.00", "DCT, 96 coefficients", "1.25"):
        assert text in words
    assert "vary most over 77 training scans" in words
    # Summaries of earlier versions; fewer than two training scans.
    for linear in ({}, {"pca": None}, {"pca": None, "dct": None}):
        found = {name: answer for name, answer in summary()["baselines"].items() if name not in ("pca", "dct")}
        words = Page(render(data(summary=summary(baselines=found | linear)))).words
        assert "nearest training scan" in words
        assert "PCA" not in words
        assert "DCT" not in words


def test_a_note_is_shown_and_what_is_written_in_it_is_not_believed():
    text = render(data(summary=summary(note="an average brain <script>alert(1)</script>")))
    assert "an average brain &lt;script&gt;" in text
    assert "<script" not in text
    assert "<h2>Note</h2>" not in render(data())


def test_what_there_is_none_of_is_left_out():
    nothing = summary(labels={}, baselines=None, quarantine_reasons={"packing": {}, "fitting": {}})
    words = Page(render(data(summary=nothing, pictures=[]))).words
    for title in (
        "Scans and their reconstructions",
        "By label",
        "Against simple answers",
        "Training",
        "Why scans were",
    ):
        assert title not in words
    assert "Quality by split" in words


def test_ssim_that_is_not_defined_is_a_dash():
    without = group(28.5) | {"ssim": None}
    splits = {"test": without, "train": without}
    report = data(summary=summary(splits=splits), pictures=[picture([12, 10], ssim=None)])
    assert "SSIM" not in [card["what"] for card in cards(report)]
    assert "SSIM 0." not in Page(render(report)).words


def test_groups_have_their_table():
    groups = {"site": {"10": group(21.5), "9": group(30.0)}, "modality": {"CT": group(25.25), "MR": group(26.75)}}
    words = Page(render(data(summary=summary(groups=groups)))).words
    assert "By group" in words
    assert words.index("25.25") < words.index("26.75") < words.index("30.00") < words.index("21.50")
    assert "By group" not in Page(render(data())).words


def test_the_page_is_the_same_from_a_summary_that_was_stored():
    many = {str(i): group(20.0 + i) for i in range(12)}
    made = summary(labels=many, groups={"site": many, "modality": {"MR": group(2.0), "CT": group(1.0)}})
    assert render(data(summary=json.loads(canonical_json(made)))) == render(data(summary=made))


def test_long_tables_of_labels_are_cut_and_say_so():
    words = Page(render(data(summary=summary(labels={str(i): group(20.0) for i in range(40)})))).words
    assert "10 more labels are in summary.json" in words


def test_colour_pictures_are_shown_in_colour():
    page = Page(render(data(pictures=[picture([12, 10], 3)])))
    (colour,) = [image for image in page.images if "Original" in image["alt"]]
    assert base64.b64decode(colour["src"].split(",")[1])[25] == 2  # PNG colour type: RGB


def test_the_same_data_is_the_same_page():
    assert render(data(**CHARTS)) == render(data(**CHARTS))


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (1234567, "1,234,567"), (2.345, "2.35"), (-0.5, "-0.50")])
def test_numbers(value, text):
    assert number(value) == text


def test_places_go_from_worst_to_best():
    assert [place(i, 5) for i in (0, 1, 2, 4)] == ["worst", "better than 25 %", "better than 50 %", "best"]
    assert place(0, 1) == "one scan"
