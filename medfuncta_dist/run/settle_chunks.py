"""What a run file may leave open, but a run must fix once, because results depend on it: chunk sizes when the run
starts; the arithmetic before it first computes (``settle_arithmetic.py``)."""

from __future__ import annotations

from typing import Any

import psutil

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.section import Section
from medfuncta_dist.meta.sweeps.chunks import ACTIVATION_BYTES
from medfuncta_dist.network.core_settings import sized_chunks

GPU_ACTIVATION_BYTES = 2**26
"""Of one layer: a sweep of 15 layers then holds under 4 GB. Not measured: no GPU has run this yet."""
SHARE_OF_FREE_MEMORY = 0.25
"""Of the free memory, for the sweeps of all workers: data, parameters and Ray need the rest."""


def settle_chunks(run: RunFile, frozen: RunFile | None) -> RunFile:
    """The run file with what it leaves open filled in: as this run began, or with chunk sizes chosen now."""
    found = {"meta": _chosen_chunks(run)} if frozen is None else frozen.parts(lambda key: key.settled)
    filled = {name: _filled(getattr(run, name), values) for name, values in found.items()}
    changed = {name: section for name, section in filled.items() if section is not getattr(run, name)}
    return run.model_copy(update=changed) if changed else run


def _filled(section: Section, found: dict[str, Any]) -> Section:
    settled = {name: value for name, value in found.items() if getattr(section, name) is None and value is not None}
    return section.model_copy(update=settled) if settled else section


def _chosen_chunks(run: RunFile) -> dict[str, Any]:
    chunks = sized_chunks(run, activation_bytes(run, psutil.virtual_memory().available))
    return {"chunk_points": chunks.points, "chunk_scans": chunks.scans}


def activation_bytes(run: RunFile, free: int) -> int:
    """Bytes of one layer's activations in a chunk; a sweep holds four of these per layer (docs/method.md, 4)."""
    if run.cluster.gpus_per_worker:
        return GPU_ACTIVATION_BYTES
    held = 4 * run.field.layers * run.cluster.most_workers
    return max(4 * run.field.hidden, min(ACTIVATION_BYTES, int(SHARE_OF_FREE_MEMORY * free / held)))
