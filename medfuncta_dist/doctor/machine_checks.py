"""This machine: Python, packages, threads, GPUs, room on disk and in shared memory."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.check import Check, Finding, failed, passed, skipped, warned
from medfuncta_dist.streaming.shard_cache import cache_folder

PACKAGE = "medfuncta-dist"
SHM = Path("/dev/shm")
MIN_SHM_BYTES = 2 * 2**30
"""Ray's object store lies in shared memory, where there is room, else in files: slow."""
INSTALL = "install again with this project's own command: make install"


def machine_checks(run: RunFile | None) -> list[Check]:
    """In the order in which one would look."""
    return [
        Check("python", check_python),
        Check("packages", check_packages),
        Check("threads", lambda: skipped("no run file") if run is None else check_threads(run, os.cpu_count() or 1)),
        Check("gpu", lambda: check_gpu(run)),
        Check("cache", lambda: check_cache(run)),
        Check("shared memory", check_shared_memory),
    ]


def check_python() -> Finding:
    """Its version, against what the package asks for."""
    wanted = SpecifierSet(metadata(PACKAGE)["Requires-Python"] or "")
    found = ".".join(map(str, sys.version_info[:3]))
    if found in wanted:
        return passed(found)
    return failed(f"{found}, but {wanted} is needed", f"make PYTHON=python3.11 install (any {wanted} will do)")


def check_packages() -> Finding:
    """Every package that ours needs is there, in a version that it allows."""
    wrong = [told for requirement in _list_requirements() if (told := _explain_mismatch(requirement)) is not None]
    if wrong:
        return failed("; ".join(wrong), INSTALL)
    shown = ("ray", "torch", "deepspeed", "webdataset", "s3fs", "kubernetes")
    return passed(", ".join(f"{name} {version(name)}" for name in shown))


def _list_requirements() -> list[Requirement]:
    parsed = [Requirement(line) for line in requires(PACKAGE) or []]
    return [requirement for requirement in parsed if requirement.marker is None or requirement.marker.evaluate()]


def _explain_mismatch(requirement: Requirement) -> str | None:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    allowed = requirement.specifier.contains(found, prereleases=True)
    return None if allowed else f"{requirement.name} is {found}, not {requirement.specifier}"


def check_threads(run: RunFile, cores: int) -> Finding:
    """workers × threads ≤ cores, where the workers would run here."""
    wanted = run.cluster.most_workers * run.cluster.threads
    if os.environ.get("RAY_ADDRESS"):
        return skipped("workers run on the cluster of RAY_ADDRESS")
    if wanted <= cores:
        return passed(f"{wanted} compute threads on {cores} cores")
    do = "lower cluster.workers or cluster.threads; it runs all the same, slower"
    return warned(f"{wanted} compute threads on {cores} cores", do)


def check_gpu(run: RunFile | None) -> Finding:
    """CUDA, where the run asks for it."""
    import torch

    wanted = run is not None and run.cluster.gpus_per_worker > 0
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return passed(f"{names}; CUDA {torch.version.cuda}")
    if not wanted:
        return passed("none, and none is asked for")
    if os.environ.get("RAY_ADDRESS"):
        return skipped("none here; workers run on the cluster of RAY_ADDRESS")
    why = "torch is a CPU build" if torch.version.cuda is None else "torch finds no driver or device"
    do = "nothing, if the run is submitted to a cluster; else see what `nvidia-smi` says, and which torch is installed"
    return warned(f"cluster.gpus_per_worker asks for GPUs, and here {why}", do)


def check_cache(run: RunFile | None) -> Finding:
    """Room for verified shards."""
    folder = cache_folder(run.cluster.cache if run else None)
    wanted = (run.cluster.cache_gigabytes if run else 1.0) * 2**30
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return failed(f"{there} can not be written", "set cluster.cache to a folder that can")
    free = shutil.disk_usage(there).free
    told = f"{free / 2**30:.1f} GiB free for the {wanted / 2**30:g} GiB of cluster.cache_gigabytes, at {folder}"
    return (
        passed(told)
        if free >= wanted
        else warned(told, "lower cluster.cache_gigabytes, or set cluster.cache to a larger disk")
    )


def check_shared_memory() -> Finding:
    """/dev/shm, which containers get too little of by default."""
    if not SHM.is_dir():
        return warned("this system has no /dev/shm", "Ray uses files instead: slower, nothing else")
    free = shutil.disk_usage(SHM).free
    told = f"{free / 2**30:.1f} GiB free in {SHM}"
    if free >= MIN_SHM_BYTES:
        return passed(told)
    return warned(
        told, f"give the container {MIN_SHM_BYTES // 2**30} GiB: --shm-size for docker, kubernetes.shm_gigabytes"
    )
