"""Random numbers that depend on a name alone: the same on every machine, and under every version of NumPy."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def permutation(n: int, *name: object) -> npt.NDArray[np.int64]:
    """A permutation of 0 … n-1 that depends on ``name`` alone, not on the version of NumPy."""
    return np.argsort(random_numbers(n, *name), kind="stable").astype(np.int64)


def random_numbers(n: int, *name: object) -> npt.NDArray[np.uint64]:
    """``n`` uniform 64-bit numbers: Philox (Salmon et al., SC 2011), keyed by the SHA-256 of ``name``.

    The raw stream of a NumPy bit generator is guaranteed for ever (NEP 19); that of its distributions is not.
    """
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    numbers: npt.NDArray[np.uint64] = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n)
    return numbers
