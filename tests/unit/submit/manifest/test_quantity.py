from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.submit.manifest.quantity import format_cpus, format_gibibytes, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [("16Gi", 16 * 2**30), ("1500m", 1.5), ("2", 2), ("0.5", 0.5), ("1k", 1000), (".5Mi", 2**19), (3, 3)],
)
def test_quantities(text, value):
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "-1", "1gi", None, "Gi"])
def test_what_is_no_quantity(text):
    assert parse_quantity(text) is None


@given(st.floats(0.001, 1000, allow_nan=False))
def test_what_is_written_is_no_less_than_asked_and_hardly_more(value):
    assert value - 1e-9 <= parse_quantity(format_cpus(value)) <= value + 1.001e-3
    assert value * 2**30 - 1 <= parse_quantity(format_gibibytes(value)) <= (value * 1024 + 1) * 2**20
