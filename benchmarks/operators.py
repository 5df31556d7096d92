"""How many operators one meta step is made of: on a GPU about as many kernels, each of which has to be launched.

At the paper's 2D size, with chunks as a CPU has them and with all scans in one sweep, as a GPU should. Counted on
torch's device without numbers: nothing is computed, so that it takes seconds anywhere.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.common import Claim, arguments, report
from benchmarks.paper_field import paper_field

# isort: split
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.precision import Precision
from medfuncta_dist.meta.meta_gradient import meta_gradient
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold, with_parts

NOWHERE = torch.device("meta")
RATE = 1e-2
TOP = 8
"""Operators that the page names."""
ALL_SCANS = "all scans at a context set's points"
MOST = 5000
"""A tenth of what chunks of a CPU need; the activations of such a sweep are 1.5 GB."""


@dataclass(frozen=True)
class Step:
    """One meta step: the field, and what an outer step sees."""

    layers: int = 15
    hidden: int = 256
    latent: int = 2048
    points: int = 64 * 64
    scans: int = 24
    inner_steps: int = 10
    ratio: float = 0.25

    @property
    def spec(self) -> SirenSpec:
        """The field of the paper's text."""
        return paper_field(self.layers, self.hidden, self.latent)


class Counting(TorchDispatchMode):
    """Counts operators by name while it is entered. Those that only look at memory in another shape are no kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func not in ALLOCATES:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


ALLOCATES = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.detach.default,
    torch.ops.aten._unsafe_view.default,
}
"""Operators that start no kernel."""


def operators(step: Step, chunks: Chunks, precision: Precision = "fp32") -> Counter[str]:
    """Operators of the losses and the gradients of one meta step, by name."""
    params = {name: torch.empty(shape, device=NOWHERE) for name, shape in step.spec.shapes().items()}
    coordinates = torch.empty(step.points, 2, device=NOWHERE)
    targets = torch.empty(step.scans, step.points, 1, device=NOWHERE)
    latents = torch.zeros(step.scans, step.latent, device=NOWHERE)
    size = round(step.ratio * step.points)
    contexts = [torch.empty(size, dtype=torch.int64, device=NOWHERE) for _ in range(step.inner_steps)]
    with Counting() as counted:
        # Put in afterwards: of devices that are no GPU, ``fold`` takes the precision away.
        network = with_parts(replace(fold(step.spec, params), arithmetic=Arithmetic("torch", precision=precision)))
        meta_gradient(Objective(network, coordinates, targets, latents, chunks), contexts, RATE)
    return counted.counts


def main() -> None:
    """Count, and report."""
    short, began = arguments(__doc__ or "").short, time.perf_counter()
    step = Step(layers=4, hidden=16, latent=8, points=64, scans=4, inner_steps=2) if short else Step()
    size = round(step.ratio * step.points)
    several: dict[str, tuple[Chunks, Precision]] = {
        "as on a CPU": (Chunks.sized(step.hidden), "fp32"),
        ALL_SCANS: (Chunks(size, step.scans), "fp32"),
        f"{ALL_SCANS}, tf32x3": (Chunks(size, step.scans), "tf32x3"),
        "all scans at all points": (Chunks(step.points, step.scans), "fp32"),
    }
    counts = {name: operators(step, *how) for name, how in several.items()}
    totals = {name: sum(counted.values()) for name, counted in counts.items()}
    claims = [Claim(f"operators of a meta step, {ALL_SCANS} per sweep", totals[ALL_SCANS], MOST, False)]
    rows = [
        {"rows per sweep": name, "points": chunks.points, "scans": chunks.scans, "operators": totals[name]}
        | {"most frequent": ", ".join(f"{one} {number}" for one, number in counts[name].most_common(TOP))}
        for name, (chunks, _) in several.items()
    ]
    results = {"operators": totals, "by_name": counts, "chunks": {n: asdict(c) for n, (c, _) in several.items()}}
    notes = [
        f"{step.layers} x {step.hidden}, P = {step.latent}, {step.points} points, B = {step.scans}, "
        f"G = {step.inner_steps}, γ = {step.ratio:g}: losses and gradients, without the optimiser.",
        "Views and allocations are left out: they start no kernel. Counted without a GPU: some operators are several "
        "kernels there.",
    ]
    report("operators", short, began, results | {"step": asdict(step)}, claims, rows, notes)


if __name__ == "__main__":
    main()
