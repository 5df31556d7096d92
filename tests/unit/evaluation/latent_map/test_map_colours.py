from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest

from medfuncta_dist.evaluation.latent_map.map_colours import MOST_COLOURS, STEPS, by_name, by_psnr
from medfuncta_dist.report_style.report_page import STYLE

LEAST_CONTRAST = 3.0
"""Of graphics, as WCAG 2.2 asks for (1.4.11)."""


def colours(scheme: int) -> dict[str, tuple[int, ...]]:
    """Variables of the light (0) or dark (1) page."""
    style = files("medfuncta_dist.report_style").joinpath(STYLE).read_text("utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    found = {}
    for name, digits in re.findall(r"--([\w-]+): #([0-9a-f]{3,6})\b", block):
        whole = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        found[name] = tuple(int(whole[i : i + 2], 16) for i in (0, 2, 4))
    return found


def luminance(colour: tuple[int, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / 255 for n in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


POINTS = [*(f"k{i}" for i in range(MOST_COLOURS)), "other", *(f"q{i}" for i in range(STEPS))]


@pytest.mark.parametrize("scheme", [0, 1])
def test_every_colour_stands_out_from_the_page_in_light_and_dark(scheme: int):
    known = colours(scheme)
    for name in POINTS:
        for ground in ("page", "sheet"):
            assert contrast(known[name], known[ground]) >= LEAST_CONTRAST, (name, ground)
    assert contrast(known["accent"], known["sheet"]) >= 4.5 if scheme == 0 else True


@pytest.mark.parametrize("scheme", [0, 1])
def test_labels_have_colours_that_differ(scheme: int):
    known = colours(scheme)
    for one, other in combinations([f"k{i}" for i in range(MOST_COLOURS)], 2):
        apart = sum((a - b) ** 2 for a, b in zip(known[one], known[other], strict=True)) ** 0.5
        assert apart > 40, (one, other, apart)


def test_frequent_names_get_colours_and_the_rest_share_one():
    names = [str(i) for i in reversed(range(12)) for _ in range(20 - i)]
    found, legend = by_name(names)
    assert [shade.name for shade in legend] == [*map(str, range(8)), "others"]
    assert legend[-1].scans == sum(20 - i for i in range(8, 12))
    assert dict(zip(names, found, strict=True))["11"] == "other"
    assert dict(zip(names, found, strict=True))["0"] == "k0"


def test_nine_names_need_no_other_and_no_name_is_said():
    found, legend = by_name([*map(str, range(8)), "", ""])
    assert [shade.name for shade in legend] == [*map(str, range(8)), "none"]
    assert (legend[-1].scans, legend[-1].colour) == (2, "k8")
    assert len({*found}) == 9
    assert "other" not in found


def test_psnr_has_steps_from_low_to_high():
    psnr = np.linspace(10, 40, 301)
    found, legend = by_psnr(psnr)
    assert found == sorted(found)
    assert sum(shade.scans for shade in legend) == 301
    assert legend[0].name.startswith("below 1")
    assert by_psnr(np.full(4, 20.0))[0] == ["q0"] * 4
