"""What one meta step and one fitted block are made of: launches, waits of the host, the longest kernels."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import wait_for
from benchmarks.fit_throughput import images
from benchmarks.gpu import steps, ways
from benchmarks.gpu.bench import Bench, Values
from benchmarks.gpu.sections.fit_quality import settings
from medfuncta_dist.fields.coordinates import grid

TOP = 8
"""Kernels that are named."""
NAME = 60
"""Characters of a kernel's name; templates make them endless."""
LAUNCHES = ("LaunchKernel", "GraphLaunch", "Memcpy", "Memset")
"""Parts of the names of CUDA's calls that give the card work."""


def run(bench: Bench) -> None:
    """Eager and captured, in the precision that is the default and in fp32."""
    params = steps.untrained(bench.sizes.spec(), bench.device)
    problem = steps.Problem.of(bench, bench.sizes.scans)
    for way in (ways.EAGER_KERNELS[0], ways.KERNELS[0], ways.Way("fp32")):
        work = lambda way=way: profiled(bench, steps.our_steps(bench, problem, params, way)[0])  # noqa: E731
        bench.part(f"meta step, {way.name}", work)
        for name in settings(bench):
            bench.part(f"a block's fit, {name}, {way.name}", lambda name=name, way=way: fit(bench, params, name, way))


def fit(bench: Bench, params: steps.Params, name: str, way: ways.Way) -> Values:
    """One block of scans, as many as a sweep takes."""
    sizes, given = bench.sizes, settings(bench)[name]
    fitter = ways.fitter(sizes.spec(), params, grid((sizes.side, sizes.side), bench.device), given, way, bench)
    count = min(sizes.scans, ways.chunks(sizes.spec(), bench, sizes.side**2).scans)
    scans = images(bench.job.data, "test", count, sizes.side).to(bench.device)
    return profiled(bench, lambda: fitter.fit(scans)) | {"scans": count}


def profiled(bench: Bench, work: Callable[[], object]) -> Values:
    """Counts of a call that has been made before: nothing is compiled or captured any more."""
    for _ in range(3):
        work()
    waits = host_waits(bench, work)
    wait_for(bench.device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    with profile(activities=activities) as found:
        work()
        wait_for(bench.device)
    return counts(bench, list(found.events() or [])) | waits


def counts(bench: Bench, events: list[Any]) -> Values:
    """Of a profile's events."""
    where = DeviceType.CUDA if bench.cuda else DeviceType.CPU
    done = [event for event in events if event.device_type == where]
    kernels = [event for event in done if not any(word in event.name for word in ("Memcpy", "Memset", "Activity"))]
    taken: Counter[str] = Counter()
    for event in kernels:
        taken[event.name[:NAME]] += event.self_device_time_total if bench.cuda else event.self_cpu_time_total
    whole = sum(taken.values())
    top = [
        {"kernel": name, "ms": micro / 1e3, "share": micro / max(whole, 1e-9)} for name, micro in taken.most_common(TOP)
    ]
    if not bench.cuda:
        return {"operators": len(kernels), "top": top}
    calls = Counter(
        event.name for event in events if event.device_type == DeviceType.CPU and event.name.startswith("cu")
    )
    return {
        "kernels": len(kernels),
        "copies": len(done) - len(kernels),
        "launches": sum(number for name, number in calls.items() if any(word in name for word in LAUNCHES)),
        "kernel_ms": whole / 1e3,
        "calls": dict(calls.most_common(TOP)),
        "top": top,
    }


def host_waits(bench: Bench, work: Callable[[], object]) -> Values:
    """How often the host waits for the card during one call, and in which lines."""
    if not bench.cuda:
        return {"host_waits": "needs CUDA"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in told if "synchroniz" in str(one.message)]
    lines = Counter(f"{'/'.join(one.filename.split('/')[-2:])}:{one.lineno}" for one in found)
    return {"host_waits": len(found), "where": dict(lines.most_common(TOP))}
