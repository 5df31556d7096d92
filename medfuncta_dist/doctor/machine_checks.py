"""Checks of this machine: Python, packages, threads, GPUs, free disk space and shared memory."""

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
from medfuncta_dist.storage.leftovers import KEPT_SESSIONS, find_leftovers
from medfuncta_dist.storage.scratch import temporary_root
from medfuncta_dist.streaming.shard_cache import cache_folder

PACKAGE = "medfuncta-dist"
MIN_TEMPORARY_BYTES = 2**30
"""A pack task keeps the shards that it makes there, each of data.shard_megabytes."""
SHM = Path("/dev/shm")
MIN_SHM_BYTES = 2 * 2**30
"""Ray's object store uses shared memory if there is enough of it, else files, which are slow."""
INSTALL = "install again with this project's own command: make install"


def list_machine_checks(run: RunFile | None) -> list[Check]:
    """The checks, the most basic first."""
    return [
        Check("python", check_python),
        Check("packages", check_packages),
        Check("threads", lambda: skipped("no run file") if run is None else check_threads(run, os.cpu_count() or 1)),
        Check("gpu", lambda: check_gpu(run)),
        Check("cache", lambda: check_cache(run)),
        Check("shared memory", check_shared_memory),
        Check("temporary files", check_temporary_files),
    ]


def check_python() -> Finding:
    """Python's version, against what the package requires."""
    wanted = SpecifierSet(metadata(PACKAGE)["Requires-Python"] or "")
    found = ".".join(map(str, sys.version_info[:3]))
    if found in wanted:
        return passed(found)
    return failed(
        f"{found}, but {wanted} is needed", f"install with another Python ({wanted}): make PYTHON=python3.11 install"
    )


def check_packages() -> Finding:
    """Every required package is installed, in an allowed version."""
    found = [_explain_mismatch(requirement) for requirement in _list_requirements()]
    wrong = [mismatch for mismatch in found if mismatch is not None]
    if wrong:
        return failed("; ".join(wrong), INSTALL)
    names = ("ray", "torch", "deepspeed", "webdataset", "s3fs", "kubernetes")
    return passed(", ".join(f"{name} {version(name)}" for name in names))


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
    """workers × threads ≤ cores, if the workers run on this machine."""
    wanted = run.cluster.most_workers * run.cluster.threads
    if os.environ.get("RAY_ADDRESS"):
        return skipped("workers run on the cluster of RAY_ADDRESS")
    if wanted <= cores:
        return passed(f"{wanted} compute threads on {cores} cores")
    do = "lower cluster.workers or cluster.threads; as it is, the run works, but slower"
    return warned(f"{wanted} compute threads on {cores} cores", do)


def check_gpu(run: RunFile | None) -> Finding:
    """CUDA, if the run needs it."""
    import torch

    wanted = run is not None and max(run.cluster.gpus_per_worker, run.gpus_per_task) > 0
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return passed(f"{names}; CUDA {torch.version.cuda}")
    if run is None or not wanted:
        return passed("no GPU, and the run needs none")
    if os.environ.get("RAY_ADDRESS"):
        return skipped("no GPU here, but workers run on the cluster of RAY_ADDRESS")
    why = "torch is a CPU build" if torch.version.cuda is None else "torch finds no CUDA driver or device"
    do = "nothing, if the run is submitted to a cluster; else check `nvidia-smi`, and install torch with CUDA"
    return warned(f"{_gpu_key(run)} needs GPUs, but {why}", do)


def _gpu_key(run: RunFile) -> str:
    return "cluster.gpus_per_worker" if run.cluster.gpus_per_worker else "fit.gpus_per_task"


def check_cache(run: RunFile | None) -> Finding:
    """Disk space for the cache of shards."""
    folder = cache_folder(run.cluster.cache if run else None)
    wanted = (run.cluster.cache_gigabytes if run else 1.0) * 2**30
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return failed(f"{existing} is not writable", "set cluster.cache to a writable folder")
    free = shutil.disk_usage(existing).free
    what = f"{free / 2**30:.1f} GiB free for the {wanted / 2**30:g} GiB of cluster.cache_gigabytes, at {folder}"
    return (
        passed(what)
        if free >= wanted
        else warned(what, "lower cluster.cache_gigabytes, or set cluster.cache to a larger disk")
    )


def check_temporary_files() -> Finding:
    """Room for temporary files, and what killed commands have left there."""
    root, found = temporary_root(), find_leftovers()
    free = shutil.disk_usage(root).free
    what = f"{free / 2**30:.1f} GiB free at {root}"
    if free < MIN_TEMPORARY_BYTES:
        return warned(what, "free space there, or set TMPDIR to a folder on another disk")
    if found.scratch or len(found.sessions) > KEPT_SESSIONS:
        left = f"{len(found.folders)} folders of commands that have ended take {found.size / 2**20:.1f} MiB"
        return warned(f"{what}; {left}", "remove them: medfuncta-dist doctor --clean")
    return passed(what)


def check_shared_memory() -> Finding:
    """The size of /dev/shm, which is too small in containers by default."""
    if not SHM.is_dir():
        return warned("this system has no /dev/shm", "nothing: Ray uses files instead, which is slower")
    free = shutil.disk_usage(SHM).free
    what = f"{free / 2**30:.1f} GiB free in {SHM}"
    if free >= MIN_SHM_BYTES:
        return passed(what)
    return warned(
        what, f"give the container {MIN_SHM_BYTES // 2**30} GiB: docker's --shm-size, or kubernetes.shm_gigabytes"
    )
