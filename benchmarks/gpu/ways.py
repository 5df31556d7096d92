"""The one place where the command meets the product's choices of arithmetic, chunks and graphs.

What this version of the product does not have yet is said as a named skip, never measured as something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Skipped
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks

SWEEP_BYTES = 1.6e9
"""Of one sweep's activations on a GPU: 24 scans at a quarter of 64 x 64 points go in one sweep, within 2 GB."""
ARRAYS_PER_LAYER = 4
"""Activations that a sweep holds of each layer at once (docs/method.md, 4)."""


@dataclass(frozen=True)
class Way:
    """How the core computes a step."""

    precision: str
    compiled: bool = False
    captured: bool = False

    @property
    def name(self) -> str:
        """As in the tables."""
        how = " + ".join(word for word, on in (("compiled", self.compiled), ("captured", self.captured)) if on)
        return f"{self.precision}, {how or 'eager'}"


PRECISIONS = ("tf32x3", "tf32", "fp32")
EAGER = tuple(Way(precision) for precision in PRECISIONS)
CAPTURED = tuple(Way(precision, captured=True) for precision in PRECISIONS)
COMPILED = tuple(
    Way(precision, compiled=True, captured=captured) for captured in (True, False) for precision in PRECISIONS
)
WAYS = (*CAPTURED, *EAGER, *COMPILED)
"""Compiled ones last: compiling may take the rest of a section's time."""
KNOWN = {field.name for field in fields(Arithmetic)}


def arithmetic(way: Way, bench: Bench) -> Arithmetic:
    """The product's arithmetic for a way. Skipped where this device or this version does not compute so."""
    if not bench.cuda and way != Way("fp32"):
        raise Skipped("needs CUDA")
    if way.compiled and find_spec("triton") is None:
        raise Skipped("triton is not installed")
    asked: dict[str, Any] = {"compiled": way.compiled}
    for name, plain in (("precision", "fp32"), ("captured", False)):
        wanted = getattr(way, name)
        if name in KNOWN:
            asked[name] = wanted
        elif wanted != plain:
            raise Skipped(f"this version's Arithmetic has no choice of {name}")
    return replace(Arithmetic.best(bench.device), **asked)


def chunks(spec: SirenSpec, bench: Bench, sweep_bytes: float = SWEEP_BYTES) -> Chunks:
    """As many rows per sweep as fit into the bytes, and into a quarter of the free memory."""
    if not bench.cuda:
        return Chunks.sized(spec.hidden)
    free, _ = torch.cuda.mem_get_info()
    return Chunks.sized(spec.hidden, int(min(sweep_bytes, free / 4) / (ARRAYS_PER_LAYER * spec.layers)))


def learner(spec: SirenSpec, params: Params, coordinates: Tensor, way: Way, bench: Bench) -> MetaLearner:
    """The network ready for meta steps."""
    settled, rows = arithmetic(way, bench), chunks(spec, bench)
    return MetaLearner(spec, params, coordinates, bench.sizes.rate, chunks=rows, arithmetic=settled)


def fitter(
    spec: SirenSpec, params: Params, coordinates: Tensor, settings: FitSettings, way: Way, bench: Bench
) -> StepwiseFitter:
    """The network ready to fit."""
    settled = replace(settings, chunks=chunks(spec, bench), arithmetic=arithmetic(way, bench))
    return StepwiseFitter(spec, params, coordinates, settled)


@contextmanager
def baseline_products(precision: str) -> Iterator[None]:
    """The baseline's own matrix products: float32 as they are, or in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
