"""Peak memory of packing one volume that keeps its resolution: read, encoded and written to a shard, by itself.

Each volume is an uncompressed NIfTI file of noise on a slope, made here, and packed in a process of its own, whose
largest resident set is what counts. ``scaled``: the header scales the values, so they become float32.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.common import Claim, arguments, report
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.packing.source_reader import EncodedScan, SourceReader
from medfuncta_dist.packing.sources.source_list import list_sources
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.shard_set import ShardSet, of_indexes
from medfuncta_dist.storage.object_store import ObjectStore

KEYS = KeyMaker(bytes(32))
TARGETS = {(256, 256, 256): 2.0, (512, 512, 1024): 4.0}
"""GiB of a process, by shape."""
SCALING = {"int16": (1.0, 0.0), "scaled": (0.5, -10.0), "scaled, 0.7 to 1 mm": (0.5, -10.0)}


def main() -> None:
    """Pack every volume; report."""
    short, began = arguments(__doc__ or "").short, time.perf_counter()
    shapes = [(48, 40, 32)] if short else list(TARGETS)
    table: list[dict[str, Any]] = []
    for shape in shapes:
        for kind in SCALING:
            with tempfile.TemporaryDirectory() as folder:
                _make(Path(folder) / "volume.nii", shape, *SCALING[kind])
                command = [sys.executable, "-m", "benchmarks.native_memory", folder, "spacing" if "mm" in kind else ""]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            table.append({"volume": " x ".join(map(str, shape)), "values": kind, **json.loads(done.stdout)})
    claims = [
        Claim(f"GiB at {row['volume']}, {row['values']}", row["gib"], TARGETS.get(shape, 2.0), at_least=False)
        for row, shape in zip(table, [s for s in shapes for _ in SCALING], strict=True)
    ]
    report("native_memory", short, began, {"volumes": table}, claims, table)


def _make(path: Path, shape: tuple[int, int, int], slope: float, intercept: float) -> None:
    """Slice by slice, so that this process stays small."""
    header: Any = nib.Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header.set_sform(np.diag([0.7, 0.7, 1, 1]), 1)
    rng, slope_of = np.random.default_rng(0), np.linspace(0, 500, shape[0])[:, None]
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(shape[2]):
            file.write((rng.normal(0, 60, shape[:2]) + slope_of).astype("<i2").tobytes(order="F"))


def pack_alone(folder: Path, spacing: str) -> dict[str, float]:
    """Pack the folder's volume in this process; its largest resident set and the seconds."""
    section = {"source": str(folder / "*.nii"), "patches": {"size": [16] * 3}, "group": "source"}
    data = Data.model_validate(section | ({"spacing": [1.0, 1.0, 1.0]} if spacing else {}))
    began = time.perf_counter()
    [source] = list_sources(data, KEYS).sources
    (folder / "shards").mkdir()
    with ShardSet(ObjectStore(str(folder / "store")), "d", folder / "shards", 1024, 128, *of_indexes(data)) as shards:
        for event in SourceReader(data, KEYS).events(source):
            if isinstance(event, EncodedScan):
                shards.add(event.split, event.key, event.npy, event.json, source.key, event.item, event.group)
        assert shards.finish()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"gib": peak, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(pack_alone(Path(sys.argv[1]), sys.argv[2])))
    else:
        main()
