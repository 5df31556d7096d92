from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import StageOrderError
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.probe import probed_scans
from medfuncta_dist.probe.probed_scans import LatentSource, grouping_of, read_scans
from medfuncta_dist.probe.question import question_of
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import LATENT, network, publish, ready, run_file
from tests.writers import write_png


def opened(run: RunFile) -> LatentSource:
    store = ObjectStore(run.storage)
    return LatentSource.open(store, WorkerSettings.of(run), locate_table(run, store))


def patients(folder: Path) -> RunFile:
    """Three scans each of 24 patients, told by the folders' names; the patient decides the label."""
    rows = ["path,class"]
    for patient in range(24):
        (folder / "archive" / f"patient{patient:03}").mkdir(parents=True)
        for n in range(3):
            path = f"patient{patient:03}/{n}.png"
            write_png(folder / "archive" / path, size=(12, 12), seed=10 * patient + n)
            rows.append(f"{path},{patient % 2}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    source = str(folder / "archive" / "*" / "*.png")
    table = {"path": str(folder / "table.csv"), "label": "class"}
    return run_file(folder, data={"source": source, "fractions": {"train": 0.6, "test": 0.4}, "table": table})


def test_patients_stay_together_where_they_are_known(tmp_path: Path):
    run = patients(tmp_path)
    pack(run, map_here, lambda progress: None)
    publish(run, network(run))
    fit(run, map_here)
    source = opened(run)
    train, test = (read_scans(source, split, question_of("0")) for split in ("train", "test"))
    assert train is not None
    assert test is not None
    assert grouping_of(train, test) == {"by": "patient", "scans_without_patient": 0, "also_in_training": 0}
    assert grouping_of(train, train)["also_in_training"] == len(train) / 3
    assert len(np.unique(train.patients)) == len(train) / 3
    assert not set(train.groups) & set(test.groups)
    labels_of_patient = {(p, a) for p, a in zip(train.patients.tolist(), train.answers.tolist(), strict=True)}
    assert len(labels_of_patient) == len(train) / 3, "labels are those of the same rows"
    few = read_scans(source, "train", question_of("0"), most=9)
    assert few is not None
    assert 9 <= len(few) < len(train)
    kept = set(few.picks)
    same = [row for row, pick in enumerate(train.picks) if pick in kept]
    assert np.array_equal(few.latents, train.latents[same])


def test_memory_bounds_how_many_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = ready(tmp_path)
    fit(run, map_here)
    monkeypatch.setattr(probed_scans, "MOST_BYTES", 4 * LATENT * 5)
    found = read_scans(opened(run), "train", question_of(None))
    assert found is not None
    assert 5 <= len(found) <= 10, "a part may round up"


def test_before_the_fit_there_is_nothing_to_read(tmp_path: Path):
    with pytest.raises(StageOrderError, match="no latents yet"):
        opened(ready(tmp_path))
