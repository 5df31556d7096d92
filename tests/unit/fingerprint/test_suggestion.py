from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.fingerprint.scan_facts import PERCENTILES, ScanFacts
from medfuncta_dist.fingerprint.suggestion import LEAST, MOST_POINTS, fitted, suggest


def facts(shape: Sequence[int], values: Any = (0, 1), spacing: float = 1.0, **fields: Any) -> ScanFacts:
    drawn = np.asarray(values, np.float32)
    known: dict[str, Any] = {"modality": "MR", "channels": 1, "dtype": "int16", "hounsfield": False}
    return ScanFacts(
        shape=tuple(shape),
        spacing=(spacing,) * len(shape),
        orientation="RAS",
        percentiles=tuple(np.percentile(drawn, PERCENTILES)),
        background=0.0,
        finite=True,
        values=drawn,
        **known | fields,
    )


BODY = np.concatenate([np.full(60, -1000), np.full(30, 40), np.linspace(-100, 900, 20)])


def test_small_pictures_keep_their_size_and_8_bits_their_range() -> None:
    found = suggest([facts((28, 28), dtype="uint8", modality="PX")])
    assert found.data == {"shape": [28, 28], "intensity": {"mode": "dtype"}}
    assert found.spacing == (1.0, 1.0)


def test_a_field_of_view_keeps_its_proportions_at_one_spacing() -> None:
    found = suggest([facts((181, 217, 181))])
    assert found.data["shape"] == [32, 40, 32]
    assert found.data["intensity"] == {"mode": "percentile", "low": 0.5, "high": 99.5}
    assert max(found.spacing) == pytest.approx(180 / 31, rel=0.1)


def test_signals_keep_their_length_and_their_peaks() -> None:
    found = suggest([facts((187,), modality="ECG", dtype="float32")])
    assert found.data == {"shape": [187], "intensity": {"mode": "minmax"}}


def test_a_ct_in_hounsfield_units_has_the_default() -> None:
    scans = [facts((512, 512), BODY, hounsfield=True, modality="CT") for _ in range(3)]
    assert suggest(scans).data == {"shape": [256, 256], "ct_window": [-1000, 1000]}
    picture = facts((512, 512), dtype="uint8", modality="CT")
    found = suggest([*scans, picture])
    assert found.data["ct_window"] == [-1000, 1000]
    assert "in 3 of 4 scans" in found.why["ct_window"]


def test_values_that_look_like_a_ct_are_said_to_be_one() -> None:
    found = suggest([facts((32, 32, 32), BODY, modality="OT")])
    assert found.data["intensity"] == {"mode": "range", "low": -1000, "high": 1000}
    assert "which the files do not say" in found.why["intensity"]
    for not_one in (BODY + 1000, BODY * 10, np.where(abs(BODY) < 150, 300, BODY)):
        assert suggest([facts((32, 32, 32), not_one, modality="OT")]).data["intensity"]["mode"] == "percentile"


def test_colour_needs_its_channels() -> None:
    assert suggest([facts((28, 28), channels=3, dtype="uint8")]).data["channels"] == 3


@given(
    st.lists(st.tuples(st.integers(2, 2000), st.floats(0.05, 20)), min_size=1, max_size=3),
    st.sampled_from(["MR", "CT", "OT"]),
    st.booleans(),
)
def test_every_suggestion_is_a_valid_data_section(axes: list[tuple[int, float]], modality: str, units: bool) -> None:
    sizes, spacings = zip(*axes, strict=True)
    one = facts(sizes, BODY, modality=modality, hounsfield=units)
    one = ScanFacts(**{**vars(one), "spacing": spacings})
    found = suggest([one]).data
    Data.model_validate({"source": "x", **found})
    assert len(found["shape"]) == len(sizes)


@given(st.lists(st.floats(1, 5000), min_size=2, max_size=3), st.floats(0.1, 5))
def test_points_stay_few(extent: list[float], spacing: float) -> None:
    shape = fitted(np.array(extent), np.full(len(extent), spacing))
    # Rounding to a multiple of 8 adds half a step per axis at most, and an axis has 8 points at least.
    assert min(shape) >= 2
    if min(shape) > LEAST:
        assert math.prod(shape) <= MOST_POINTS[len(shape)] * 1.5 ** len(shape)


def test_a_ct_without_a_rescale_is_told() -> None:
    found = suggest([facts((32, 32), np.arange(100), modality="CT")])
    assert found.data["intensity"]["mode"] == "percentile"
    assert "no rescale" in found.why["intensity"]
