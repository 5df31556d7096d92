from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.errors import IntegrityError, MedfunctaError
from medfuncta_dist.latents.curved.curved_tables import LARGEST_SYMBOL, PRECISION, CurvedTables
from medfuncta_dist.latents.curved.row_coder import RowCoder, require_coder
from tests.unit.latents.curved.made_tables import LATENT, tables

TABLES = tables()
CODER = RowCoder(TABLES)
SYMBOLS = st.lists(
    st.one_of(st.integers(-3, 3), st.integers(-200, 200), st.sampled_from([-LARGEST_SYMBOL, LARGEST_SYMBOL])),
    min_size=LATENT,
    max_size=LATENT,
)


def known() -> CurvedTables:
    """Tables that were never computed: three models of few symbols."""
    frequencies = [[1000, 2**24 - 3000, 2000], [4, 2**22, 2**23, 2**22 - 8, 4], [2**20, 2**24 - 2 * 2**20, 2**20]]
    return CurvedTables(
        mean=np.zeros(8, np.float32),
        numbers=np.eye(8, dtype=np.int32),
        exponents=np.zeros(8, np.int32),
        counts=np.array([2, 5, 1], np.int32),
        reaches=np.array([0, 1, 0], np.int32),
        frequencies=np.concatenate(frequencies).astype(np.int32),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(SYMBOLS, min_size=1, max_size=4))
def test_decoding_gives_exactly_the_symbols(rows: list[list[int]]) -> None:
    symbols = np.array(rows, np.int32)
    streams = CODER.encode(symbols)
    assert (CODER.decode(streams) == symbols).all()
    assert [CODER.encode(symbols[i : i + 1])[0] for i in range(len(rows))] == streams
    assert max(map(len, streams)) <= CODER.longest


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_symbols_or_an_error(stream: bytes) -> None:
    try:
        found = CODER.decode([stream], "here")
    except IntegrityError:
        return
    assert found.shape == (1, LATENT)
    assert np.abs(found).max() <= LARGEST_SYMBOL


def test_a_stream_that_claims_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(IntegrityError, match="too long"):
        CODER.decode([bytes(CODER.longest + 1)], "here")


def test_a_stream_is_as_short_as_its_symbols_are_improbable() -> None:
    made = known()
    coder, rng = RowCoder(made), np.random.default_rng(0)
    symbols = rng.integers(-1, 2, (400, 8)).astype(np.int32)
    symbols[:, [0, 1, 7]] = 0
    models = np.repeat(np.arange(3), made.counts)
    bits = sum(PRECISION - np.log2(made.models[m][symbols[:, j] + made.reaches[m] + 1]) for j, m in enumerate(models))
    mean = np.mean([len(stream) for stream in coder.encode(symbols)])
    assert np.mean(bits) / 8 <= mean <= np.mean(bits) / 8 + 1


def test_frequencies_are_taken_exactly() -> None:
    # A thousand symbols of 23 and of 24 bits: the coder's numbers are 2 and 1 of 2²⁴, not something near.
    made = replace(
        known(),
        mean=np.zeros(1000, np.float32),
        numbers=np.eye(1000, dtype=np.int32),
        exponents=np.zeros(1000, np.int32),
        counts=np.array([1000], np.int32),
        reaches=np.array([1], np.int32),
        frequencies=np.array([1, 1, 2**24 - 5, 2, 1], np.int32),
    )
    for symbol, bits in ((-1, 24_000), (1, 23_000)):
        (stream,) = RowCoder(made).encode(np.full((1, 1000), symbol, np.int32))
        assert 0 <= 8 * len(stream) - bits <= 16


def test_the_bytes_of_streams_never_change() -> None:
    rows = np.array([[0, 0, 1, -1, 0, 1, 1, 0], [0, 3, -7, 0, 0, 1, 2, -100], [0] * 8], np.int32)
    streams = RowCoder(known()).encode(rows)
    assert hashlib.sha256(b"|".join(streams)).hexdigest() == GOLDEN


GOLDEN = "33142bcacc45cb28c8d0a575822f9944d17ef89a5ee9ea862b37f5c73c79047a"


def test_a_coder_that_is_not_the_writers_is_refused() -> None:
    (other,) = CODER.encode(-TABLES.proof_row()[None])
    for proof in (other, b"\0", bytes(CODER.longest)):
        with pytest.raises(MedfunctaError, match="does not reproduce the test stream") as caught:
            RowCoder(TABLES.proven(proof), "here")
        assert not isinstance(caught.value, IntegrityError)  # what is stored may be whole: nobody must repair it
        assert "constraints.txt" in caught.value.do


def test_without_the_library_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(MedfunctaError) as caught:
        require_coder()
    assert "medfuncta-dist[curved]" in caught.value.do
