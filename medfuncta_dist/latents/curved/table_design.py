"""Makes the tables of curved latents from training scans: the metric of images, its principal directions, and the
largest step whose loss is within a bound (docs/method.md, 10).

Two thirds of the scans tell the directions; the others, to which these were not fitted, tell how far symbols spread,
how probable they are, and what a step costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.latents.curved.curved_tables import LARGEST_SYMBOL, CurvedTables, mapped_by
from medfuncta_dist.latents.curved.row_coder import RowCoder
from medfuncta_dist.latents.curved.symbol_models import models_of

FLOOR = 1e-3
"""Of the mean curvature, added to it in every direction: a SIREN's curvature differs by scan, and a direction that
moves no image on average may move one."""
EVERY = 3
"""Each third scan is not used for directions."""
HALVINGS = 10
"""Of the range in which the step is: it is then within 1 % of the largest."""
SEEN = 60.0
"""dB: PSNR counts up to this. 256 grey levels alone are as far from what they round (58.9 dB): beyond it nobody sees a
loss, and a few nearly perfect scans (blank slices) would otherwise decide the step of all."""
FEWEST = 16
"""Training scans, below which nothing can be told."""

Latents = Float[np.ndarray, "scan latent"]
Quality = Callable[[Latents], Float[np.ndarray, " scan"]]
"""PSNR (dB) of the scans that are not used for directions, with these latents instead of theirs."""


@dataclass(frozen=True)
class Designed:
    """Tables, and what they cost on the scans that told the step."""

    tables: CurvedTables
    loss: float
    """Mean loss of PSNR in dB."""
    stream_bytes: float
    """Mean length of a stream."""


def judging(scans: int) -> Int[np.ndarray, " scan"]:
    """Which of so many training scans are not used for directions."""
    return np.arange(EVERY - 1, scans, EVERY)


def design(latents: Latents, curvature: Float[np.ndarray, "latent latent"], quality: Quality, bound: float) -> Designed:
    """Tables for latents like these.

    Args:
        latents: of training scans, as fitted.
        curvature: mean of JᵀJ over values and scans (``image_curvature``).
        quality: of the scans that ``judging`` names.
        bound: mean loss of PSNR in dB, of which what is above ``SEEN`` does not count.

    Raises:
        MedfunctaError: there are fewer than ``FEWEST`` scans, all latents or all images are alike, or no step is within
            the bound.
    """
    require_enough(len(latents))
    if not (np.isfinite(latents).all() and np.isfinite(curvature).all()):
        raise _impossible("the latents of the training scans, or how images change with them, are not finite")
    if not curvature.trace() > 0:
        raise _impossible("no image of the shared network changes with its latent")
    axes = _Axes.of(latents.astype(np.float64), curvature)
    if not axes.spreads.max() > 0:
        raise _impossible("the latents of the training scans are all alike")
    before = quality(axes.judged.astype(np.float32)).clip(max=SEEN)

    def loss(tables: CurvedTables) -> float:
        return float((before - quality(tables.latents(axes.symbols(tables))).clip(max=SEEN)).mean())

    step, lost = _largest_step(axes, loss, bound)
    tables = axes.tables(step)
    streams = RowCoder(tables).encode(axes.symbols(tables))
    return Designed(tables, lost, float(np.mean([len(stream) for stream in streams])))


def require_enough(scans: int) -> None:
    """MedfunctaError for fewer than ``FEWEST`` training scans."""
    if scans < FEWEST:
        raise MedfunctaError(
            f"{scans} training scans can be fitted, too few to make the tables of curved latents",
            where="fit.storage_type",
            do=f"pack {FEWEST} training scans or more, or choose another fit.storage_type",
        )


def _impossible(what: str) -> MedfunctaError:
    return MedfunctaError(
        f"{what}: there are no tables of curved latents",
        where="fit.storage_type",
        do="look at what `train` and `evaluate` say of the network, or choose another fit.storage_type",
    )


@dataclass(frozen=True)
class _Axes:
    """Principal directions in the metric of images, of one unit of it each."""

    mean: Float[np.ndarray, " latent"]
    transform: Float[np.ndarray, "latent symbol"]
    spreads: Float[np.ndarray, " symbol"]
    judged: Latents

    @classmethod
    def of(cls, latents: Latents, curvature: Float[np.ndarray, "latent latent"]) -> _Axes:
        judges = judging(len(latents))
        judged, others = latents[judges], np.delete(latents, judges, 0)
        root, inverse_root = _roots(curvature)
        mean = others.mean(0)
        _, directions = np.linalg.eigh(np.atleast_2d(np.cov((others - mean) @ root, rowvar=False)))
        spreads = np.sqrt(np.square((judged - mean) @ root @ directions).mean(0))
        order = np.argsort(-spreads, kind="stable")
        return cls(mean, inverse_root @ directions[:, order], spreads[order], judged)

    def unmodelled(self, step: float) -> CurvedTables:
        """With a step, and without the models of its symbols."""
        none = np.zeros(0, np.int32)
        return CurvedTables(*mapped_by(self.mean, self.transform * step), counts=none, reaches=none, frequencies=none)

    def tables(self, step: float) -> CurvedTables:
        """Whole tables."""
        found = self.unmodelled(step)
        counts, reaches, frequencies = models_of(self.spreads / step)
        tables = replace(found, counts=counts, reaches=reaches, frequencies=frequencies)
        return tables.proven(RowCoder(tables).encode(tables.proof_row()[None])[0])

    def symbols(self, tables: CurvedTables) -> Int[np.ndarray, "scan symbol"]:
        """Of the scans that judge."""
        return symbols_of((self.judged - tables.mean.astype(np.float64)) @ tables.inverse.T)


def symbols_of(values: Float[np.ndarray, "scan symbol"]) -> Int[np.ndarray, "scan symbol"]:
    """Values, in steps, as symbols; those beyond ± ``LARGEST_SYMBOL`` as that."""
    return np.asarray(np.clip(np.rint(values), -LARGEST_SYMBOL, LARGEST_SYMBOL), np.int32)


def _roots(curvature: Float[np.ndarray, "latent latent"]) -> tuple[np.ndarray, np.ndarray]:
    """The root of the curvature, with a floor, and its inverse."""
    values, vectors = np.linalg.eigh(curvature)
    roots = np.sqrt(values.clip(min=0) + FLOOR * values.mean())
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _largest_step(axes: _Axes, loss: Callable[[CurvedTables], float], bound: float) -> tuple[float, float]:
    """And its loss. By halving the logarithm's range; steps from a spread that is far too coarse down to one that loses
    nothing. MedfunctaError where none is within the bound, or losses are no numbers."""
    coarse = 4 * float(axes.spreads.max())
    low, high = np.log2(coarse) - 20, np.log2(coarse)
    within = None
    for _ in range(HALVINGS + 4):
        middle = (low + high) / 2
        if (found := loss(axes.unmodelled(float(2**middle)))) <= bound:
            low, within = middle, found
        else:
            high = middle
    if within is None:
        raise MedfunctaError(
            f"the finest step of curved latents costs {found:.3g} dB on training scans, more than {bound:g} dB",
            where="fit.curved_loss",
            do="raise it, or choose another fit.storage_type",
        )
    return float(2**low), within
