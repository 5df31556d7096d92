from __future__ import annotations

import re
from importlib.resources import files

import jinja2
import pytest

from medfuncta_dist.report_style.report_page import PAGE, STYLE, page

REPORTS = (
    ("medfuncta_dist.evaluation", "report.html"),
    ("medfuncta_dist.data_report", "data_report.html"),
    ("medfuncta_dist.evaluation.comparison", "comparison.html"),
)
OF_ELEMENTS = {
    f"--{name}" for name in ("x", "y", "u", "v", "l", "s", "p", "c", "share", "side", "below", "left", "top")
}
"""Variables that the points of a map, the map itself and cells of tables have, which are no colours of the page."""


def text_of(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")


@pytest.mark.parametrize(("package", "template"), REPORTS)
def test_every_report_fills_the_one_page_and_has_no_style_of_its_own(package: str, template: str) -> None:
    text = text_of(package, template)
    assert text.startswith(f'{{% extends "{PAGE}" %}}')
    assert "<style" not in text
    assert "<html" not in text


def test_the_style_names_each_colour_for_light_and_for_dark() -> None:
    style = text_of("medfuncta_dist.report_style", STYLE)
    light, dark = (set(re.findall(r"(--\w[\w-]*):", block)) for block in re.findall(r":root \{(.*?)\}", style))
    assert light == dark
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= light | OF_ELEMENTS
    assert "@media screen and (prefers-color-scheme: dark)" in style


def test_what_is_shown_is_text_and_what_is_missing_is_an_error() -> None:
    shown = page(*REPORTS[1], "<b>", "data report", **CONTENT)
    assert "<title>&lt;b&gt; – medfuncta-dist data report</title>" in shown
    assert text_of("medfuncta_dist.report_style", STYLE) in shown
    with pytest.raises(jinja2.UndefinedError):
        page(*REPORTS[1], "a", "data report")


CONTENT = {
    "content": {
        "check": {"state": "passed", "text": "", "splits_by": "by patient"},
        "reasons": {"source": {}, "scan": {}},
        "equal_samples": {"copies": 0, "across_splits": 0},
    },
    **dict.fromkeys(("cards", "splits", "modalities", "packing", "settings"), ()),
    **dict.fromkeys(("look_alikes", "archive"), None),
    "verdict": "Passed",
    "short": 12,
    "plural": str,
}
