from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans import shared_window
from medfuncta_dist.scans.readers.reader import Found
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.scans.shared_window import with_shared_window
from tests.unit.scans.archive import declared


def image(item: str, low: float, high: float, dtype: str = "int16", **how: object) -> Found:
    array = np.linspace(low, high, 12).reshape(1, 3, 4).astype(dtype)
    return replace(Found(item, None, Scan(array, (1.0, 1.0), None, "CT"), alike=True), **how)  # type: ignore[arg-type]


def windows(found: list[Found], data: Data) -> dict[str, Window | str | None]:
    """By item; of an unusable one the reason."""
    made = {one.item: one.scan for one in with_shared_window(iter(found), data)}
    return {item: scan.what if isinstance(scan, ScanError) else scan.window for item, scan in made.items()}


def test_images_that_belong_together_have_the_window_of_all_their_values() -> None:
    found = [image("a", 0, 10), image("b", -500, 0), image("alone", 3, 4, alike=False), image("c", 0, 900)]
    assert windows(found, declared([3, 4], intensity={"mode": "minmax"})) == {
        **dict.fromkeys("abc", Window(-500, 900)),
        "alone": None,
    }


@pytest.mark.parametrize(("keep", "low"), [("refuse", 0.0), ("keep", -500.0)])
def test_what_is_refused_does_not_count(keep: str, low: float) -> None:
    broken = image("broken", 0, 9000, "float32")
    assert isinstance(broken.scan, Scan)
    broken.scan.array[0, 0, 0] = np.nan
    found = [
        image("a", 0, 10),
        image("text", -500, 0, burn_in="text"),
        broken,
        replace(broken, item="e", scan=ScanError("e")),
    ]
    made = windows(found, declared([3, 4], intensity={"mode": "minmax"}, burned_in=keep))
    assert made["a"] == Window(low, 10)
    assert made["text"] == (None if keep == "refuse" else Window(low, 10))
    assert made["broken"].startswith("some values are not finite")
    assert made["e"] == "e"


def test_a_window_that_no_value_decides_needs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_window, "MAX_VALUES", 0)
    found = [image("a", 0, 100, "uint8"), image("b", 0, 50, "uint8")]
    assert windows(found, declared([3, 4])) == dict.fromkeys("ab", Window(0, 255))
    ranged = declared([3, 4], intensity={"mode": "range", "low": -1, "high": 7})
    assert windows([image("a", 0, 100)], ranged) == {"a": Window(-1, 7)}


def test_more_values_than_a_scan_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_window, "MAX_VALUES", 24)
    made = windows([image(item, 0, 100) for item in "abc"], declared([3, 4], intensity={"mode": "minmax"}))
    assert made == {"a": Window(0, 100), "b": Window(0, 100), "c": shared_window.TOO_MANY}
