"""The whole job on this machine: an embedded S3 server, a real scan, and the same stages as on a cluster.

Only the surroundings are special: the run file is jobs/quickstart.yaml, the storage is s3://.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.run.frozen_run_file import begun_with
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.object_store import ObjectStore

VOLUME = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SCAN = "mni152/t1.nii.gz"
ON_ONE_GPU = ["cluster.workers=1", "cluster.gpus_per_worker=1"]
"""Without a GPU: two workers, as in jobs/quickstart.yaml."""
WORKER_KEYS = {"cluster", "cluster.workers", "cluster.gpus_per_worker"}
TRY_GPU = "import torch; assert torch.ones(1, device='cuda').add(1).item() == 2"
TRY_GPU_S = 120
"""Importing torch and its CUDA libraries from a slow disk takes most of it."""
PLAN = """\
medfuncta-dist quickstart
  1. start an S3 server on this machine, and upload one brain MRI to it (MNI152: an average of 152 brains)
  2. pack      cut it into axial slices, shards and an index
  3. train     meta-learn one small network on {workers} (Ray Train, DeepSpeed)
  4. fit       find one latent vector for each slice (Ray tasks)
  5. evaluate  decode the latents of held-out slices, compare, and write a report
Everything is written below {workdir}; run the command again and it resumes where it stopped.
"""


def run_quickstart(workdir: str, overrides: list[str]) -> dict[str, Any]:
    """Run the whole job; the report and summary.json are copied into ``workdir``."""
    folder = Path(workdir).resolve()
    volume = _volume()
    folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedS3(folder / "s3") as server:
        os.environ.update(server.environment)
        for bucket in ("archive", "medfuncta"):
            server.create_bucket(bucket)
        run = _run_file(folder, overrides)
        print(PLAN.format(workdir=folder, workers=_workers(run)), file=sys.stderr)
        archive = ObjectStore("s3://archive")
        if not archive.exists(SCAN):
            archive.upload(volume, SCAN)
        figures = run_stages(run, STAGES)
        store = ObjectStore(run.storage)
        store.download(f"runs/{run.name}/report/report.html", folder / "report.html")
        store.download(f"runs/{run.name}/summary.json", folder / "summary.json")
    figures["report"] = str(folder / "report.html")
    figures["said"] += [f"report:  {folder / 'report.html'}", f"figures: {folder / 'summary.json'}"]
    return figures


def _run_file(folder: Path, overrides: list[str]) -> RunFile:
    text = files("medfuncta_dist").joinpath("jobs/quickstart.yaml").read_text()
    here = [f"data.private={folder / 'private'}", f"cluster.cache={folder / 'cache'}"]
    run = parse(text, here + overrides, where="jobs/quickstart.yaml")
    if may_take_gpu(overrides, os.environ.get("RAY_ADDRESS"), begun_with(run, ObjectStore(run.storage))) and has_gpu():
        run = parse(text, here + ON_ONE_GPU + overrides, where="jobs/quickstart.yaml")
    return run


def may_take_gpu(overrides: Sequence[str], ray_address: str | None, begun: RunFile | None) -> bool:
    """Whether this run would use a GPU, if there is one.

    Not where the user says what workers get; not on a Ray that somebody else started, which may have been given no
    GPU; and not where the run began on CPUs, for it goes on multiplying matrices as it began (``meta.products``).
    """
    said = any(item.split("=")[0].strip() in WORKER_KEYS for item in overrides)
    began_on_cpus = begun is not None and begun.cluster.gpus_per_worker == 0
    return not said and not ray_address and not began_on_cpus


def has_gpu() -> bool:
    """Whether torch can compute on a GPU of this machine. Without NVIDIA's driver the answer takes no time."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    try:
        # In another process: this one stays without torch, and without the memory that CUDA takes on the GPU.
        tried = subprocess.run([sys.executable, "-c", TRY_GPU], capture_output=True, timeout=TRY_GPU_S)
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0


def _workers(run: RunFile) -> str:
    cluster = run.cluster
    kind = f"{cluster.gpus_per_worker:g} GPU each" if cluster.gpus_per_worker else "CPU only"
    return f"{cluster.most_workers} worker{'s' if cluster.most_workers > 1 else ''}, {kind}"


def _volume() -> Path:
    # Found, not imported: importing nilearn takes seconds, and only a file in its wheel is needed.
    spec = find_spec("nilearn")
    path = Path(spec.submodule_search_locations[0]) / VOLUME if spec and spec.submodule_search_locations else None
    if path is None or not path.exists():
        raise MedfunctaError(
            "the quickstart's scan is not installed",
            do="pip install 'medfuncta-dist[quickstart]' (nilearn's wheel contains it)",
        )
    return path
