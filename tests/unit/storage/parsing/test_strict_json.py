from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.parsing import strict_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read(value: object) -> None:
    assert strict_json.parse(canonical_json(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{",
        b"NaN",
        b"[1e999]",
        b"[-Infinity]",
        b"[" * 10**6,
        b'{"a":' * 10**6,
        b"9" * 10**5,
        b'"\\ud800"',
    ],
)
def test_everything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever words
        strict_json.parse(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        canonical_json(strict_json.parse(data))


def test_what_is_no_object_is_refused_by_name() -> None:
    for data in (b"", b"[]", b"3"):
        with pytest.raises(IntegrityError, match="the thing is not") as caught:
            strict_json.parse_object(data, "the thing", "s3://b/a.json", "mend it")
        assert (caught.value.where, caught.value.do) == ("s3://b/a.json", "mend it")
