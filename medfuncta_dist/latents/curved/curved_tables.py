"""What all latents of a table share when they are stored as ``curved``: the map from whole numbers to latents, and how
probable each whole number is.

    φ = 2^e ∘ (M q) + μ        M whole numbers, one exponent e for each of φ's numbers, q the symbols of a scan

Every product and sum of M q is a whole number below 2⁵³: in float64 it is exact in any order, with or without fused
operations. Scaling by powers of two is exact, the sum with μ and the result are rounded once each: every machine
finds the same float32 latents.

Stored as safetensors, under the SHA-256 of the bytes (``stored_tables.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import safetensors.numpy
import torch
from jaxtyping import Float, Int

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.fields import safe_tensors

FORMAT_VERSION = "1"
LARGEST_SYMBOL = 2**20
EXACT_BITS = 53
"""Whole numbers below 2⁵³ are exact in float64."""
LARGEST_BITS = 30
"""Of M's numbers, which are stored as int32."""
PRECISION = 24
"""Frequencies of a model are of 2²⁴, as the coder counts."""
LARGEST_REACH = 2**15
DO = "restore the object from a backup, or delete the latent table's folder and run fit again"
NAMES = ("mean", "numbers", "exponents", "counts", "reaches", "frequencies", "proof")
TYPES = dict.fromkeys(NAMES, torch.int32) | {"mean": torch.float32, "proof": torch.uint8}


@dataclass(frozen=True, eq=False)
class CurvedTables:
    """The shared tables of curved latents."""

    mean: Float[np.ndarray, " latent"]
    """μ, float32."""
    numbers: Int[np.ndarray, "latent symbol"]
    """M, int32."""
    exponents: Int[np.ndarray, " latent"]
    counts: Int[np.ndarray, " model"]
    """How many consecutive symbols have each probability model."""
    reaches: Int[np.ndarray, " model"]
    """Of each model: symbols up to ± its reach have a probability each, and what lies beyond one for each side."""
    frequencies: Int[np.ndarray, " frequency"]
    """Of all models, one after the other: 2 reach + 3 whole numbers of at least 1, whose sum is 2²⁴."""
    proof: bytes = b""
    """The stream of ``proof_row``, by which a reader sees that its coder is the writer's."""

    @property
    def latent(self) -> int:
        """P."""
        return len(self.mean)

    @property
    def symbols(self) -> int:
        """Per scan."""
        return int(self.numbers.shape[1])

    @property
    def models(self) -> list[Int[np.ndarray, " frequency"]]:
        """The frequencies of each model."""
        return np.split(self.frequencies, np.cumsum(2 * self.reaches + 3)[:-1])

    @cached_property
    def map(self) -> Float[np.ndarray, "latent symbol"]:
        """M in float64."""
        return self.numbers.astype(np.float64)

    @cached_property
    def inverse(self) -> Float[np.ndarray, "symbol latent"]:
        """From a latent without its mean to symbols before rounding, float64. Only writers need it."""
        inverse: np.ndarray = np.linalg.inv(np.ldexp(self.map, self.exponents[:, None]))
        return inverse

    def latents(self, symbols: Int[np.ndarray, "scan symbol"]) -> Float[np.ndarray, "scan latent"]:
        """φ of each scan, float32: the same bits everywhere. ``symbols``: up to ± ``LARGEST_SYMBOL``."""
        exact = symbols.astype(np.float64) @ self.map.T
        whole: np.ndarray = np.ldexp(exact, self.exponents) + self.mean.astype(np.float64)
        return whole.astype(np.float32)

    def proof_row(self) -> Int[np.ndarray, " symbol"]:
        """Symbols of every kind: small, large, and beyond the reach of their model to both sides."""
        reaches = np.repeat(self.reaches, self.counts).astype(np.int64)
        return (7 * np.arange(self.symbols) % (2 * reaches + 5) - reaches - 2).astype(np.int32)

    def proven(self, proof: bytes) -> CurvedTables:
        """With the stream of the proof row."""
        return replace(self, proof=proof)

    def to_bytes(self) -> bytes:
        """As safetensors; the same tables give the same bytes."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in NAMES[:-1]}
        tensors["proof"] = np.frombuffer(self.proof, np.uint8)
        # One entry: the library writes several in any order.
        return safetensors.numpy.save(tensors, {"format_version": FORMAT_VERSION})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> CurvedTables:
        """The inverse. FormatVersionError for another version; IntegrityError for what cannot be such tables."""
        try:
            metadata, tensors = safe_tensors.load(data)
        except ValueError as error:
            raise _damaged(str(error), where) from error
        if metadata.get("format_version") != FORMAT_VERSION:
            what = f"not tables of curved latents of version {FORMAT_VERSION}"
            raise FormatVersionError(
                what, where=where, do="read them with the version of medfuncta-dist that wrote them"
            )
        if set(tensors) != set(NAMES):
            raise _damaged("they are not complete", where)
        if any(tensors[name].dtype != dtype for name, dtype in TYPES.items()):  # NumPy lacks some of those that differ
            raise _damaged("they have other types of numbers", where)
        mean, numbers, exponents, counts, reaches, frequencies, proof = (tensors[name].numpy() for name in NAMES)
        found = cls(mean, numbers, exponents, counts, reaches, frequencies, proof.tobytes())
        if not found.proof:
            raise _damaged("they have no test stream", where)
        if fault := _fault(found):
            raise _damaged(fault, where)
        return found


def mapped_by(
    mean: Float[np.ndarray, " latent"], transform: Float[np.ndarray, "latent symbol"]
) -> tuple[Float[np.ndarray, " latent"], Int[np.ndarray, "latent symbol"], Int[np.ndarray, " latent"]]:
    """μ, M and e, by which φ is ``mean`` + ``transform`` q as nearly as whole numbers allow."""
    bits = _bits(transform.shape[1])
    largest = np.abs(transform).max(1)
    exponents = np.where(largest > 0, np.frexp(np.where(largest > 0, largest, 1))[1] - bits, 0).astype(np.int32)
    numbers = np.rint(np.ldexp(transform, -exponents[:, None])).astype(np.int32)
    return mean.astype(np.float32), numbers, exponents


def _bits(symbols: int) -> int:
    """Of M's numbers, such that no sum of products reaches 2⁵³."""
    return min(LARGEST_BITS, EXACT_BITS - (LARGEST_SYMBOL.bit_length() - 1) - (symbols - 1).bit_length())


def _fault(tables: CurvedTables) -> str | None:
    """What is wrong with them; None where nothing is."""
    if any(getattr(tables, name).ndim != (2 if name == "numbers" else 1) for name in NAMES[:-1]):
        return "they have other shapes"
    latent, symbols = tables.numbers.shape
    if not 0 < latent == symbols == len(tables.mean) == len(tables.exponents):
        return "they do not belong together"
    if not np.isfinite(tables.mean).all() or np.abs(tables.exponents.astype(np.int64)).max() > 1000:
        return "their numbers are not finite"
    if np.abs(tables.numbers.astype(np.int64)).max() > 2 ** _bits(symbols):
        return "their numbers are too large"
    return _fault_of_models(tables)


def _fault_of_models(tables: CurvedTables) -> str | None:
    counts, reaches = tables.counts.astype(np.int64), tables.reaches.astype(np.int64)
    if len(counts) != len(reaches) or counts.min(initial=1) < 1 or counts.sum() != tables.symbols:
        return "their models are not those of their symbols"
    if reaches.min() < 0 or reaches.max() > LARGEST_REACH or (2 * reaches + 3).sum() != len(tables.frequencies):
        return "their frequencies are not those of their models"
    if tables.frequencies.min() < 1 or any(model.sum(dtype=np.int64) != 2**PRECISION for model in tables.models):
        return "their frequencies are no probabilities"
    return None


def _damaged(how: str, where: str) -> IntegrityError:
    return IntegrityError(f"the tables of curved latents are damaged: {how}", where=where, do=DO)
