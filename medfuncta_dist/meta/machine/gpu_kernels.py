"""A layer's work on a GPU in as few passes over memory as it needs, as Triton kernels.

A product of activations with a weight, the shift, sine and cosine are one kernel: read the activations once, write what
the way back needs. On tensor cores, whose operands have 11 bits, in one pass or in three (``precision.py``), with
operands rounded in registers. Sums are in a fixed order, so equal inputs give equal bits.

Only float32, contiguous along the last axis. Weights come as ``kept_parts``: transposed, high part and rest.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.meta.machine.precision import rounded

ROWS, COLUMNS, INNER = 64, 64, 32
"""Of a tile of a product; ``INNER`` is what one step of its sum multiplies. Small ones, of which an SM has several at
work, beat large ones on an H100 by a fifth (docs/method.md, 5)."""
WARPS, STAGES = 4, 3
DAMPED_POINTS, DAMPED_STEP, DAMPED_COLUMNS = 64, 32, 64

NOTHING, SHIFT, BASE = 0, 1, 2
"""What is added to a product: nothing, a row for each scan, a matrix."""


@triton.jit
def _high(values):
    """The first 11 bits, rounded: as ``precision.rounded``."""
    bits = values.to(tl.int32, bitcast=True)
    return ((bits + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _sine_cosine(phase):
    """Sine and cosine with one reduction to [−π/4, π/4]: π/2 in three parts, of which whole multiples up to 2¹³ are
    exact; polynomials of the Cephes library. Absolute error at most 2e-7 while |phase| < 10⁴."""
    turns = tl.floor(phase * 0.6366197723675814 + 0.5)
    rest = phase - turns * 1.5703125
    rest = rest - turns * 4.8375129699707031e-4
    rest = rest - turns * 7.5497899487686e-8
    square = rest * rest
    odd = ((-1.9515295891e-4 * square + 8.3321608736e-3) * square - 1.6666654611e-1) * square * rest + rest
    even = (2.443315711809948e-5 * square - 1.388731625493765e-3) * square + 4.166664568298827e-2
    even = even * square * square - 0.5 * square + 1.0
    quarter = turns.to(tl.int32) & 3
    swapped = (quarter & 1) == 1
    sine, cosine = tl.where(swapped, even, odd), tl.where(swapped, odd, even)
    return tl.where(quarter >= 2, -sine, sine), tl.where((quarter == 1) | (quarter == 2), -cosine, cosine)


@triton.jit
def _multiply_add(total, left, high, low, PASSES: tl.constexpr):
    left_high = _high(left)
    if PASSES == 3:  # the small terms first
        total = tl.dot(left - left_high, high, total, input_precision="tf32")
        total = tl.dot(left_high, low, total, input_precision="tf32")
    return tl.dot(left_high, high, total, input_precision="tf32")


@triton.jit
def _product(
    left, weight, added, out, cosine_out, rows, inner: tl.constexpr, columns, points,
    PASSES: tl.constexpr, ADDED: tl.constexpr, WAVES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """out = left · weightᵀ + what is added; WAVES 1: its sine; 2: its sine, and its cosine in ``cosine_out``."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < rows, column < columns
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    at = row.to(tl.int64)[:, None] * inner
    for start in range(0, inner, INNER):
        k = start + tl.arange(0, INNER)
        a = tl.load(left + at + k[None, :], mask=in_rows[:, None] & (k < inner)[None, :], other=0.0)
        of_weight = column[None, :] * inner + k[:, None]
        inside = in_columns[None, :] & (k < inner)[:, None]
        high = tl.load(weight + of_weight, mask=inside, other=0.0)
        low = high
        if PASSES == 3:
            low = tl.load(weight + columns * inner + of_weight, mask=inside, other=0.0)
        total = _multiply_add(total, a, high, low, PASSES)
    to = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = in_rows[:, None] & in_columns[None, :]
    if ADDED == 1:
        total += tl.load(added + (row // points)[:, None] * columns + column[None, :], mask=inside, other=0.0)
    if ADDED == 2:
        total += tl.load(added + to, mask=inside, other=0.0)
    if WAVES == 0:
        tl.store(out + to, total, mask=inside)
    else:
        sine, cosine = _sine_cosine(total)
        tl.store(out + to, sine, mask=inside)
        if WAVES == 2:
            tl.store(cosine_out + to, cosine, mask=inside)


@triton.jit
def _moving(
    left, motion, weight, shifts, tangents, sine_out, cosine_out, curvature_out, wave_out,
    rows, inner: tl.constexpr, columns, points,
    PASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """z = left · weightᵀ + shift, ż = motion · weightᵀ + tangent; out: sin z, cos z, ż sin z, ż cos z."""
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < rows, column < columns
    phase = tl.zeros((ROWS, COLUMNS), tl.float32)
    speed = tl.zeros((ROWS, COLUMNS), tl.float32)
    at = row.to(tl.int64)[:, None] * inner
    for start in range(0, inner, INNER):
        k = start + tl.arange(0, INNER)
        of_left = in_rows[:, None] & (k < inner)[None, :]
        of_weight = column[None, :] * inner + k[:, None]
        inside = in_columns[None, :] & (k < inner)[:, None]
        high = tl.load(weight + of_weight, mask=inside, other=0.0)
        low = high
        if PASSES == 3:
            low = tl.load(weight + columns * inner + of_weight, mask=inside, other=0.0)
        phase = _multiply_add(phase, tl.load(left + at + k[None, :], mask=of_left, other=0.0), high, low, PASSES)
        speed = _multiply_add(speed, tl.load(motion + at + k[None, :], mask=of_left, other=0.0), high, low, PASSES)
    to = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = in_rows[:, None] & in_columns[None, :]
    of_scan = (row // points)[:, None] * columns + column[None, :]
    sine, cosine = _sine_cosine(phase + tl.load(shifts + of_scan, mask=inside, other=0.0))
    speed += tl.load(tangents + of_scan, mask=inside, other=0.0)
    tl.store(sine_out + to, sine, mask=inside)
    tl.store(cosine_out + to, cosine, mask=inside)
    tl.store(curvature_out + to, sine * speed, mask=inside)
    tl.store(wave_out + to, cosine * speed, mask=inside)


@triton.jit
def _damped(
    cosine, curvature, adjoint, motion_adjoint, sums, motion_sums, points, columns, tiles,
    MOVING: tl.constexpr, POINTS: tl.constexpr, STEP: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """cos · adjoint in ``cosine``'s memory, and its sums over the points of a tile; MOVING: ``damped_motion``."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    tile, scan = tl.program_id(1), tl.program_id(2)
    total = tl.zeros((COLUMNS,), tl.float32)
    motion_total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, POINTS, STEP):
        point = tile * POINTS + start + tl.arange(0, STEP)
        inside = (point < points)[:, None] & (column < columns)[None, :]
        at = (scan.to(tl.int64) * points + point)[:, None] * columns + column[None, :]
        cos = tl.load(cosine + at, mask=inside, other=0.0)
        through = cos * tl.load(adjoint + at, mask=inside, other=0.0)
        if MOVING:
            of_motion = tl.load(motion_adjoint + at, mask=inside, other=0.0)
            through -= tl.load(curvature + at, mask=inside, other=0.0) * of_motion
            tl.store(curvature + at, through, mask=inside)
            through_motion = cos * of_motion
            tl.store(cosine + at, through_motion, mask=inside)
            motion_total += tl.sum(through_motion, 0)
        else:
            tl.store(cosine + at, through, mask=inside)
        total += tl.sum(through, 0)
    to = (scan * tiles + tile) * columns + column
    tl.store(sums + to, total, mask=column < columns)
    if MOVING:
        tl.store(motion_sums + to, motion_total, mask=column < columns)


def kept_parts(right: Float[Tensor, "inner column"]) -> Float[Tensor, "2 column inner"]:
    """A weight as the kernels read it: transposed, its first 11 bits and the rest."""
    whole = right.T.contiguous()
    high = rounded(whole)
    return torch.stack((high, whole - high))


def product(
    left: Float[Tensor, "row inner"],
    parts: Float[Tensor, "2 column inner"],
    passes: int,
    shifts: Float[Tensor, "scan column"] | None = None,
    base: Float[Tensor, "row column"] | None = None,
    waves: int = 0,
) -> tuple[Float[Tensor, "row column"], Float[Tensor, "row column"]]:
    """left · right, plus its scan's shift (rows are dealt to scans evenly) or a base.

    ``waves`` 1: the sine of this; 2: sine and cosine. Otherwise both results are the same tensor.
    """
    left, (rows, inner), columns = left.contiguous(), left.shape, parts.shape[1]
    out = left.new_empty(rows, columns)
    second = torch.empty_like(out) if waves == 2 else out
    added, kind = (shifts, SHIFT) if shifts is not None else (base, BASE) if base is not None else (out, NOTHING)
    points = max(1, rows // len(shifts)) if shifts is not None else 1
    if rows:
        _product[(triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS))](
            left, parts, added.contiguous(), out, second, rows, inner, columns, points,
            PASSES=passes, ADDED=kind, WAVES=waves, ROWS=ROWS, COLUMNS=COLUMNS, INNER=INNER,
            num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    return out, second


def moving_waves(
    left: Float[Tensor, "row inner"],
    motion: Float[Tensor, "row inner"],
    parts: Float[Tensor, "2 column inner"],
    passes: int,
    shifts: Float[Tensor, "scan column"],
    tangents: Float[Tensor, "scan column"],
) -> list[Float[Tensor, "row column"]]:
    """sin z, cos z, ż sin z and ż cos z for the phase z of every row and its motion ż."""
    left, motion, (rows, inner), columns = left.contiguous(), motion.contiguous(), left.shape, parts.shape[1]
    results = [left.new_empty(rows, columns) for _ in range(4)]
    if rows:
        _moving[(triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS))](
            left, motion, parts, shifts.contiguous(), tangents.contiguous(), *results,
            rows, inner, columns, max(1, rows // len(shifts)),
            PASSES=passes, ROWS=ROWS, COLUMNS=COLUMNS, INNER=INNER, num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    return results


def damped(
    cosine: Float[Tensor, "scan point hidden"], adjoint: Float[Tensor, "scan point hidden"]
) -> tuple[Float[Tensor, "scan point hidden"], Float[Tensor, "scan hidden"]]:
    """cos · adjoint, in the memory of ``cosine``, and its sums over points."""
    (sums,) = _damp(1, cosine, cosine, adjoint, adjoint)
    return cosine, sums


def damped_motion(
    cosine: Float[Tensor, "scan point hidden"],
    curvature: Float[Tensor, "scan point hidden"],
    adjoint: Float[Tensor, "scan point hidden"],
    motion_adjoint: Float[Tensor, "scan point hidden"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cos · adjoint − curvature · motion_adjoint and cos · motion_adjoint, in the memory of the first two, and their
    sums over points."""
    sums, motion_sums = _damp(2, cosine, curvature, adjoint, motion_adjoint)
    return curvature, cosine, sums, motion_sums


def _damp(results: int, cosine: Tensor, curvature: Tensor, adjoint: Tensor, motion_adjoint: Tensor) -> list[Tensor]:
    scans, points, columns = cosine.shape
    tiles = triton.cdiv(points, DAMPED_POINTS)
    sums = [cosine.new_empty(scans, tiles, columns) for _ in range(results)]
    _damped[(triton.cdiv(columns, DAMPED_COLUMNS), tiles, scans)](
        cosine, curvature, adjoint.contiguous(), motion_adjoint.contiguous(), sums[0], sums[-1], points, columns, tiles,
        MOVING=results == 2, POINTS=DAMPED_POINTS, STEP=DAMPED_STEP, COLUMNS=DAMPED_COLUMNS, num_warps=4,
    )  # fmt: skip
    return [one.sum(1) for one in sums]
