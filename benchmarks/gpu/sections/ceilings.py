"""What the card can do at most: copies, matrix products, sines. Everything else is judged by these."""

from __future__ import annotations

import torch

from benchmarks.gpu.bench import Bench, Skipped, Values
from benchmarks.gpu.ways import baseline_products

ROWS = 98304
"""24 scans at 64 x 64 points: the rows of a sweep's product."""


def run(bench: Bench) -> None:
    """Copy, products by type and size, the product of a sweep, sine."""
    rows = ROWS if bench.cuda else 64
    bench.part("copy", lambda: copy(bench))
    for kind in ("fp32", "tf32", "bf16"):
        for size in bench.sizes.products:
            bench.part(f"product, {kind}, {size}", lambda kind=kind, size=size: product(bench, kind, size, size))
        bench.part(f"product of a sweep, {kind}", lambda kind=kind: product(bench, kind, rows, bench.sizes.hidden))
    bench.part("sine", lambda: sine(bench))


def copy(bench: Bench) -> Values:
    """Bytes read and written per second."""
    numbers = bench.sizes.copy_bytes // 4
    source = torch.rand(numbers, device=bench.device)
    target = torch.empty_like(source)
    return {"gb_per_s": 2 * 4 * numbers / bench.timed(lambda: target.copy_(source)) / 1e9}


def product(bench: Bench, kind: str, rows: int, width: int) -> Values:
    """(rows, width) by (width, width)."""
    if kind == "tf32" and not bench.cuda:
        raise Skipped("needs CUDA")
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    left = torch.rand(rows, width, device=bench.device, dtype=dtype)
    right = torch.rand(width, width, device=bench.device, dtype=dtype)
    with baseline_products(kind):
        seconds = bench.timed(lambda: left @ right)
    return {"tflop_per_s": 2 * rows * width * width / seconds / 1e12}


def sine(bench: Bench) -> Values:
    """Float32 numbers per second."""
    numbers = bench.sizes.copy_bytes // 16
    phase = torch.rand(numbers, device=bench.device).mul_(100)
    wave = torch.empty_like(phase)
    return {"numbers_per_s": numbers / bench.timed(lambda: torch.sin(phase, out=wave))}
