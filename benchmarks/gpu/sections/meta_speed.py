"""One meta step beside the published-style code, in turns in one process: every precision, eager, compiled, captured.

A step here is the losses and the gradient of θ; the optimiser's own step is a few kernels more.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.gpu import steps, ways
from benchmarks.gpu.bench import Bench, Values

COMPILE_SECONDS = 40.0
"""Left at least, before a compiled way is begun."""


def run(bench: Bench) -> None:
    """The whole batch and a rank's share of it, most important ways first."""
    sizes = bench.sizes
    params = steps.untrained(sizes.spec(), bench.device)
    problems = {count: steps.Problem.of(bench, count) for count in (sizes.scans, sizes.rank_scans)}
    baselines = {count: baseline(bench, problems[count], params) for count in problems}
    for group in (ways.KERNELS, ways.CAPTURED, ways.EAGER, ways.COMPILED):
        for count, problem in problems.items():
            for way in group:
                work = lambda problem=problem, way=way, count=count: measured(  # noqa: E731
                    bench, problem, params, way, *baselines[count]
                )
                bench.part(f"{count} scans, {way.name}", work, COMPILE_SECONDS if way.compiled and bench.cuda else 0)


Baseline = tuple[Callable[[], object] | None, int]
"""A step of the published-style code, and of how many scans; None where there is none that works."""


def baseline(bench: Bench, problem: steps.Problem, params: steps.Params) -> Baseline:
    """As many scans as its memory is enough for, and what it needs; kept for the turns with each way."""
    whole = len(problem.batches[0].targets)
    kept: list[Baseline] = [(None, whole)]

    def with_scans(count: int) -> Values:
        batches = [steps.Batch(batch.targets[:count], batch.contexts) for batch in problem.batches]
        step = steps.plain_steps(steps.Problem(problem.spec, problem.coordinates, batches), params)
        found = bench.peak(step)
        seconds = bench.timed(step)
        kept[0] = (step, count)
        tf32 = steps.plain_steps(steps.Problem(problem.spec, problem.coordinates, batches), params, "tf32")
        in_tf32 = {"ms_tf32": bench.timed(tf32) * 1e3} if bench.cuda else {}
        return {"scans": count, "ms": seconds * 1e3, **in_tf32, **found}

    counts = sorted({whole, max(1, whole // 2), max(1, whole // 4), 1}, reverse=True)
    bench.part(f"published-style, {whole} scans", lambda: bench.fitting_memory(counts, with_scans))
    return kept[0]


def measured(
    bench: Bench,
    problem: steps.Problem,
    params: steps.Params,
    way: ways.Way,
    plain: Callable[[], object] | None,
    plain_scans: int,
) -> Values:
    """Milliseconds per step, over the baseline's at equal scans, and memory."""
    step, learner = steps.our_steps(bench, problem, params, way)
    memory = bench.peak(step)
    memory["sweep"] = f"{learner.chunks.points} x {learner.chunks.scans}"  # halved, where memory ran out
    if plain is None:
        return {"ms": bench.timed(step) * 1e3, "baseline_ms": None, "over_baseline": None, **memory}
    turns = bench.side_by_side(step, plain)
    per_scan = plain_scans / len(problem.batches[0].targets)
    return {
        "ms": turns.ours * 1e3,
        "baseline_ms": turns.baseline / per_scan * 1e3,
        "over_baseline": turns.over_baseline * per_scan,
        **memory,
    }
