"""The only import of constriction: each scan's symbols as one stream of bytes, by a range coder, and back.

A stream holds the symbols model by model: those of a model in their order, one beyond its reach as "below" or "above";
then, of each such symbol, how far beyond it is, as a number below 2²⁰. It is the coder's 32-bit words, big endian,
shortened to the fewest bytes which, followed by zeros, give the same symbols. Each scan has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from medfuncta_dist.errors import IntegrityError, MedfunctaError
from medfuncta_dist.latents.curved.curved_tables import DO, LARGEST_SYMBOL, CurvedTables

WORD = 4
"""Bytes."""
SHORTENED = 2 * WORD
"""Bytes that are tried to be left out at the end: the coder seals with two words at most."""
SYMBOL_BYTES = 6
"""Most that a symbol takes: 24 bits of a model and 20 beyond its reach."""

Symbols = Int[np.ndarray, "scan symbol"]


def require_coder() -> None:
    """MedfunctaError where constriction is not installed."""
    _coding()


def _coding() -> Any:
    try:
        import constriction
    except ImportError as error:
        do = "pip install 'medfuncta-dist[curved]', also in the workers' image; or choose another fit.storage_type"
        raise MedfunctaError(
            "curved latents need constriction, which is not installed", where="fit.storage_type", do=do
        ) from error
    return constriction.stream


class RowCoder:
    """Codes scans by the models of some tables.

    MedfunctaError without constriction, and where the tables' proof shows that this is not the coder that they were
    made for: no IntegrityError, for the latents may be whole.
    """

    def __init__(self, tables: CurvedTables, where: str = "") -> None:
        self._stream, self._tables = _coding(), tables
        self._models = [_model(self._stream, frequencies) for frequencies in tables.models]
        self._beyond = self._stream.model.Uniform(LARGEST_SYMBOL)
        self._bounds = np.cumsum([0, *tables.counts])
        self.longest = SYMBOL_BYTES * tables.symbols + 2 * WORD
        """Bytes that no stream exceeds."""
        if tables.proof:
            self._prove(where)

    def encode(self, symbols: Symbols) -> list[bytes]:
        """A stream for each scan; symbols up to ± ``LARGEST_SYMBOL``."""
        return [self._encoded(row) for row in np.ascontiguousarray(symbols, np.int32)]

    def decode(self, streams: Sequence[bytes], where: str = "") -> Symbols:
        """The symbols of each scan, int32. IntegrityError for a stream that no symbols have."""
        found = np.empty((len(streams), self._tables.symbols), np.int32)
        for row, stream in zip(found, streams, strict=True):
            if len(stream) > self.longest:
                raise IntegrityError("the stream of a curved latent is too long", where=where, do=DO)
            try:
                self._decoded(stream, row)
            except (AssertionError, ValueError) as error:
                raise IntegrityError("the stream of a curved latent is damaged", where=where, do=DO) from error
        if found.size and max(int(found.max()), -int(found.min())) > LARGEST_SYMBOL:
            raise IntegrityError("a curved latent has a symbol that is too large", where=where, do=DO)
        return found

    def _prove(self, where: str) -> None:
        row = self._tables.proof_row()
        # The tables have the SHA-256 that they were written with: it is this coder that differs.
        if self.encode(row[None]) != [self._tables.proof] or not self._gives(self._tables.proof, row):
            raise MedfunctaError(
                "the coder of this machine does not reproduce the test stream of these curved latents",
                where=where,
                do="install the version of constriction that constraints.txt names, on this machine and in the "
                "workers' image; nothing that is stored was changed",
            )

    def _of_models(self) -> Iterator[tuple[Any, int, slice]]:
        """Each model, its reach, and the symbols that have it."""
        spans = [slice(*bounds) for bounds in zip(self._bounds[:-1], self._bounds[1:], strict=True)]
        return zip(self._models, self._tables.reaches.tolist(), spans, strict=True)

    def _encoded(self, row: Int[np.ndarray, " symbol"]) -> bytes:
        encoder = self._stream.queue.RangeEncoder()
        for model, reach, span in self._of_models():
            symbols = row[span]
            encoder.encode(np.clip(symbols, -reach - 1, reach + 1) + (reach + 1), model)
            outside = symbols[np.abs(symbols) > reach]
            if len(outside):
                encoder.encode(np.abs(outside) - (reach + 1), self._beyond)
        return self._shortened(encoder.get_compressed().astype(">u4").tobytes(), row)

    def _decoded(self, stream: bytes, into: Int[np.ndarray, " symbol"]) -> None:
        words = np.frombuffer(stream + bytes(-len(stream) % WORD), ">u4").astype(np.uint32)
        decoder = self._stream.queue.RangeDecoder(words)
        for model, reach, span in self._of_models():
            symbols = decoder.decode(model, span.stop - span.start) - (reach + 1)
            outside = np.flatnonzero(np.abs(symbols) > reach)
            if len(outside):
                symbols[outside] += np.sign(symbols[outside]) * decoder.decode(self._beyond, len(outside))
            into[span] = symbols

    def _shortened(self, stream: bytes, row: Int[np.ndarray, " symbol"]) -> bytes:
        for size in range(len(stream) - 1, max(-1, len(stream) - SHORTENED - 1), -1):
            shorter = next((one for one in _shorter(stream, size) if self._gives(one, row)), None)
            if shorter is None:
                break  # nor is there a shorter one
            stream = shorter
        return stream

    def _gives(self, stream: bytes, row: Int[np.ndarray, " symbol"]) -> bool:
        found = np.empty_like(row)
        try:
            self._decoded(stream, found)
        except (AssertionError, ValueError):
            return False
        return bool((found == row).all())


def _model(stream: Any, frequencies: Int[np.ndarray, " frequency"]) -> Any:
    """Exactly these frequencies: the library gives each symbol one of 2²⁴ and shares the others out by weights. With
    frequencies less one as weights there is nothing to round, for their sum is what it shares out."""
    return stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)


def _shorter(stream: bytes, size: int) -> Iterator[bytes]:
    """The two numbers of ``size`` bytes next to the stream's, as fractions: the one below, and the one above."""
    yield stream[:size]
    above = int.from_bytes(stream[:size], "big") + 1
    if above < 256**size:
        yield above.to_bytes(size, "big")
