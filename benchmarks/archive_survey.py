"""The survey of an archive on S3, against its requests alone; and large inventories, simulated.

survey    small DICOM files in the embedded S3 server, listed in random order: the survey that writes the private
          inventory, against the same GETs alone, by as many threads, through the same store, in turns.
inventory parts of a survey (which are made here, without an archive) are joined; the inventory is read once for sums,
          and once more for the series that the headers describe. Each in a process of its own, for its peak memory.
compare   an archive that is surveyed and packed, of one file in each source: listed, compared with the records of the
          data set, and planned; once unchanged, and once with 1 % of its files changed, 1 % renamed and 1 % removed.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT, Claim, arguments, ratio, report, side_by_side

if TYPE_CHECKING:
    import pyarrow as pa

    from medfuncta_dist.archive.inventory import Listed
    from medfuncta_dist.scans.scan_key import KeyMaker

FILES, ROUNDS, ROWS = 5_000, 5, 1_000_000
SLICES = 100
"""Files per series."""
SERIES_PER_PATIENT = 4


def main() -> None:
    short, began = arguments(__doc__).short, time.perf_counter()
    files, rounds, rows = (300, 2, 20_000) if short else (FILES, ROUNDS, ROWS)
    surveyed = measure_survey(files, rounds)
    with tempfile.TemporaryDirectory() as folder:
        steps = {step: in_process(step, folder, rows) for step in ("parts", "join", "sums", "series")}
    claims = [
        Claim("survey, of the rate of its requests alone", surveyed["ratio"], 0.7, at_least=True),
        Claim("survey, growth of memory in its second half, MB", surveyed["growth_mb"], 20, at_least=False),
        Claim("inventory joined, peak memory, GB", steps["join"]["peak_gb"], 1, at_least=False),
    ]
    table = [
        {"part": part, "files": files, "seconds": seconds, "memory": ""}
        for part, seconds in (("requests alone", surveyed["bare_s"]), ("survey", surveyed["survey_s"]))
    ]
    table += [
        {"part": name, "files": rows, "seconds": found["seconds"], "memory": f"{found['peak_gb']:.3f} GB"}
        for name, found in steps.items()
    ]
    results = {"survey": surveyed, "inventory": {"rows": rows, **steps}}
    report("archive_survey", short, began, results, claims, table, NOTES)


NOTES = [
    "client and server share the cores: on two, what the survey takes is taken from the server too",
    "parts: the rows are made here; in a survey, that takes as long as the archive's requests",
]


def measure_survey(files: int, rounds: int) -> dict[str, Any]:
    """Seconds of the requests and of the survey, medians; the median ratio of their rates; growth of memory in MB."""
    from medfuncta_dist.archive.survey import survey
    from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
    from medfuncta_dist.scans.scan_key import KeyMaker

    growth: list[float] = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedS3(Path(folder)) as s3:
        os.environ.update(s3.environment)
        s3.create_bucket("bench")
        sources = write_archive(Path(folder, "bench"), files)
        numbers = iter(range(2 * rounds))

        def surveyed() -> float:
            marks, began = [memory_mb()], time.perf_counter()
            survey(
                sources,
                Path(folder, f"private-{next(numbers)}"),
                KeyMaker(bytes(32)),
                lambda *_: marks.append(memory_mb()),
            )
            seconds = time.perf_counter() - began
            growth.append(max(marks) - max(marks[: len(marks) // 2 + 1]))
            return seconds

        requests(sources)
        seconds = side_by_side({"bare": lambda: requests(sources), "survey": surveyed}, rounds)
    return {
        "files": files,
        "bare_s": sorted(seconds["bare"])[rounds // 2],
        "survey_s": sorted(seconds["survey"])[rounds // 2],
        "ratio": ratio(seconds["bare"], seconds["survey"]),
        "growth_mb": max(growth),
        "seconds": seconds,
    }


def requests(sources: list[Listed]) -> float:
    """Seconds to fetch every source whole, as the survey does."""
    from medfuncta_dist.archive.source_bytes import fetch_from
    from medfuncta_dist.archive.survey import THREADS

    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda source: len(fetch_from(source.uri)(0, source.size)), sources):
            pass
    return time.perf_counter() - began


def write_archive(bucket: Path, files: int) -> list[Listed]:
    """CT slices of 39 kB with 256 elements, under names that tell nothing; as they are listed, in random order."""
    import pydicom
    from pydicom.data import get_testdata_file

    from medfuncta_dist.archive.inventory import Listed
    from medfuncta_dist.storage.sources import expand

    dataset, numbers = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False))), random.Random(0)
    for place, n in enumerate(numbers.sample(range(files), files)):
        series = n // SLICES
        dataset.PatientID, dataset.SeriesInstanceUID = f"P{series // SERIES_PER_PATIENT}", f"1.2.3.{series}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{n % SLICES}"
        dataset.ImagePositionPatient = [0, 0, 2.5 * (n % SLICES)]
        file, path = io.BytesIO(), bucket / f"{place % 64:02d}" / f"{place:08d}"
        dataset.save_as(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    found = [Listed(s.relative, s.uri, s.size, s.version, "dicom") for s in expand("s3://bench")]
    numbers.shuffle(found)
    return found


def in_process(step: str, folder: str, rows: int) -> dict[str, Any]:
    """What a step answers that has a process of its own."""
    command = [sys.executable, "-m", "benchmarks.archive_survey", "step", step, folder, str(rows)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout))


def do_step(step: str, folder: Path, rows: int) -> dict[str, Any]:
    """Seconds and peak memory."""
    began = time.perf_counter()
    steps = {"parts": make_parts, "join": join, "sums": sum_up, "series": assemble}
    return {"seconds": time.perf_counter() - began} | steps[step](folder, rows) | {"peak_gb": peak_gb()}


def make_parts(folder: Path, rows: int) -> dict[str, Any]:
    """The parts that a survey leaves: files of 40 kB in random order, 100 in a series."""
    import pyarrow.parquet as pq

    from medfuncta_dist.archive.inventory import SCHEMA
    from medfuncta_dist.archive.survey import PART_ROWS

    size = PART_ROWS * 16  # fewer files than a survey would leave
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, b"salt": salt().fingerprint().encode()})
    (folder / "parts").mkdir()
    for start in range(0, rows, size):
        part = simulated(range(start, min(start + size, rows)), rows).cast(schema)
        pq.write_table(part, folder / "parts" / f"{start:09d}.parquet", compression="zstd")
    return {"bytes": sum(path.stat().st_size for path in (folder / "parts").iterdir())}


def simulated(places: range, rows: int) -> pa.Table:
    """Rows of the inventory at these places in the order of paths. Their series are spread over all of it."""
    import numpy as np
    import pyarrow as pa

    from medfuncta_dist.archive.inventory import SCHEMA

    place = np.arange(places.start, places.stop)
    number = place * 7_368_787 % rows  # prime to the numbers of rows used here: every slice once
    series, n = number // SLICES, (number % SLICES).astype(np.int64)
    digest = [f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4 for i in number.tolist()]
    names = [f"{i % 997:03d}/{i:09d}".encode() for i in place.tolist()]
    names.sort()
    values: dict[str, Any] = {
        "relative": names,
        "identity": names,
        "uri": [b"s3://archive/" + name for name in names],
        "size": np.full(len(place), 40_000),
        "version": digest,
        "reader": ["dicom"] * len(place),
        "probe": digest,
        "content": digest,
        "patient": [f"{i:064x}" for i in (series // SERIES_PER_PATIENT).tolist()],
        "study": [f"1.2.826.0.1.{i}" for i in (series // 2).tolist()],
        "series": [f"1.2.826.0.2.{i}" for i in series.tolist()],
        "instance": [f"1.2.826.0.3.{i}" for i in number.tolist()],
        "modality": ["CT"] * len(place),
        "image_type": [["ORIGINAL", "PRIMARY", "AXIAL"]] * len(place),
        "rows": np.full(len(place), 128),
        "columns": np.full(len(place), 128),
        "orientation": [[1.0, 0, 0, 0, 1, 0]] * len(place),
        "position": [[0.0, 0.0, 2.5 * i] for i in n.tolist()],
        "pixel_spacing": [[0.7, 0.7]] * len(place),
        "slice_thickness": np.full(len(place), 2.5),
        "instance_number": n,
        "problems": [[]] * len(place),
    }
    columns = [pa.array(values.get(field.name, [None] * len(place)), field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def join(folder: Path, rows: int) -> dict[str, Any]:
    """As the survey does at its end."""
    from medfuncta_dist.archive.inventory import INVENTORY, join_parts

    join_parts(folder / INVENTORY, sorted((folder / "parts").iterdir()), salt().fingerprint())
    return {"bytes": (folder / INVENTORY).stat().st_size}


def sum_up(folder: Path, rows: int) -> dict[str, Any]:
    """As ``pack --plan`` does; patients, studies and series are counted."""
    from medfuncta_dist.archive.inventory import INVENTORY
    from medfuncta_dist.packing.pack_preview import sums

    found = sums(folder / INVENTORY, salt().fingerprint())
    assert found.sources == rows
    return {"patients": found.patients, "series": found.series}


def assemble(folder: Path, rows: int) -> dict[str, Any]:
    """Stacks of all series, by their headers."""
    from medfuncta_dist.archive.inventory import INVENTORY
    from medfuncta_dist.archive.series_sums import series_sums
    from medfuncta_dist.config.sections.series_section import Series

    found = series_sums(folder / INVENTORY, Series(), as_volumes=True)
    assert found.files == rows
    return {"volumes": found.volumes, "usable": found.usable}


def salt() -> KeyMaker:
    """Keys under a salt of zeros."""
    from medfuncta_dist.scans.scan_key import KeyMaker

    return KeyMaker(bytes(32))


def memory_mb() -> float:
    """What this process holds now, MB."""
    return _status("VmRSS:") * 1e3


def peak_gb() -> float:
    """The most memory this program has held, GB. Linux's ru_maxrss is no answer: a child inherits its parent's."""
    return _status("VmHWM:")


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        print(json.dumps(do_step(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
