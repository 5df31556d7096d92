"""The one place where the command meets the product's choices of arithmetic, chunks and graphs.

What cannot be computed here is said as a named skip, never measured as something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec

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

SWEEP_BYTES, SHARE_OF_FREE = 3 * 2**29, 0.5
"""Of one sweep on a GPU, and of its free memory at most: as a run settles it (``run/settle_chunks.py``, which needs
more than the compute core)."""


@dataclass(frozen=True)
class Way:
    """How the core computes a step."""

    precision: str
    compiled: bool = False
    captured: bool = False
    kernels: bool = False
    """Ours, in the place of torch's products and elementwise operations."""

    @property
    def name(self) -> str:
        """As in the tables."""
        words = (("kernels", self.kernels), ("compiled", self.compiled), ("captured", self.captured))
        how = " + ".join(word for word, on in words if on)
        return f"{self.precision}, {how or 'eager'}"


PRECISIONS = ("tf32x3", "tf32", "fp32")
EAGER_KERNELS = tuple(Way(precision, kernels=True) for precision in PRECISIONS if precision != "fp32")
KERNELS = tuple(replace(way, captured=True) for way in EAGER_KERNELS)
EAGER = tuple(Way(precision) for precision in PRECISIONS)
CAPTURED = tuple(Way(precision, captured=True) for precision in reversed(PRECISIONS))
COMPILED = tuple(
    Way(precision, compiled=True, captured=captured) for captured in (True, False) for precision in PRECISIONS
)
WAYS = (*KERNELS, *CAPTURED, *EAGER, *COMPILED)
"""Compiled ones last: compiling may take the rest of a section's time."""
BEST = (KERNELS[0], Way("fp32", captured=True), Way("fp32"))
"""What a run would choose: the first of these that works here."""


def arithmetic(way: Way, bench: Bench) -> Arithmetic:
    """The product's arithmetic for a way. Skipped where this device does not compute so."""
    if not bench.cuda and way != Way("fp32"):
        raise Skipped("needs CUDA")
    if (way.compiled or way.kernels) and find_spec("triton") is None:
        raise Skipped("triton is not installed")
    best = Arithmetic.best(bench.device)
    products = "triton" if way.kernels else best.products
    return Arithmetic(products, compiled=way.compiled, precision=way.precision, captured=way.captured)


def chunks(spec: SirenSpec, bench: Bench, points: int, scans: int | None = None) -> Chunks:
    """As a run would settle them here, for so many points, and scans on this rank."""
    if not bench.cuda:
        return Chunks.sized(spec.hidden)
    free, _ = torch.cuda.mem_get_info()
    memory = min(SWEEP_BYTES, int(SHARE_OF_FREE * free))
    return Chunks.within(memory, spec.layers, spec.hidden, scans or bench.sizes.scans, points)


def learner(
    spec: SirenSpec, params: Params, coordinates: Tensor, way: Way, bench: Bench, scans: int | None = None
) -> MetaLearner:
    """The network ready for meta steps of so many scans (default: the usual batch)."""
    settled, rows = arithmetic(way, bench), chunks(spec, bench, len(coordinates), scans)
    return MetaLearner(spec, params, coordinates, bench.sizes.rate, chunks=rows, arithmetic=settled)


def fitter(
    spec: SirenSpec, params: Params, coordinates: Tensor, settings: FitSettings, way: Way, bench: Bench
) -> StepwiseFitter:
    """The network ready to fit."""
    settled = replace(settings, chunks=chunks(spec, bench, len(coordinates)), arithmetic=arithmetic(way, bench))
    return StepwiseFitter(spec, params, coordinates, settled)


@contextmanager
def baseline_products(precision: str) -> Iterator[None]:
    """The baseline's own matrix products: float32 as they are, or in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
