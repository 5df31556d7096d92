"""Digests against published test vectors, and the one JSON text of a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.storage.digest import canonical_json, crc32c, digest_json, sha256_bytes, sha256_file

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé\n"中'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abz"), inner, max_size=4),
)


def test_published_vectors(tmp_path: Path) -> None:
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == abc
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"123456789") == 0xE3069283


@given(JSON)
def test_the_order_of_keys_does_not_matter(value: object) -> None:
    def reverse(v: object) -> object:
        if isinstance(v, dict):
            return {k: reverse(v[k]) for k in reversed(list(v))}
        return [reverse(x) for x in v] if isinstance(v, list) else v

    text = canonical_json(value)
    assert canonical_json(reverse(value)) == text
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_json_is_compact_utf8_and_refuses_what_is_not_json() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    assert digest_json({"b": 1, "a": 2}) == sha256_bytes(b'{"a":2,"b":1}')
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"x": value})
