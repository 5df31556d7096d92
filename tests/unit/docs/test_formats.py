"""docs/formats.md against a real small run: its Python reads it, and it names every file and every field there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from medfuncta_dist.config.keys import added
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.submission_id import JOB_VARIABLE
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import init_params
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.imported_record import Imported, ImportedSplit, imported_path
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.latent_table.catalogue.catalogue_store import write_catalogue
from medfuncta_dist.latents.table_format import latents_of
from medfuncta_dist.latents.table_units import write_units
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.neighbours.duplicates_report import near_duplicates
from medfuncta_dist.neighbours.index_driver import make_index
from medfuncta_dist.neighbours.latent_metric import METRICS
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.network.core_settings import field_spec
from medfuncta_dist.network.start_network import take_start
from medfuncta_dist.prior.prior_files import prior_folder
from medfuncta_dist.prior.prior_subject import COORDINATES_FILE
from medfuncta_dist.probe.probe_driver import ProbeOptions, probe_run
from medfuncta_dist.run.driver_lease import hold_lease
from medfuncta_dist.run.frozen_run_file import freeze
from medfuncta_dist.run.idempotency import Submission
from medfuncta_dist.run.terminal_record import recording_final_failure
from medfuncta_dist.scans.canonical import split_of
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.stages import run_summary
from medfuncta_dist.stages.preflight import pinned_snapshot
from medfuncta_dist.storage.leases.lease import dataset_lease, run_lease
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, NewRecord, publish
from medfuncta_dist.submit.status.job_records import SubmissionRecord, write_job_record
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import EventLog
from medfuncta_dist.telemetry.progress_record import ProgressRecorder
from medfuncta_dist.telemetry.progress_report import ProgressReport
from medfuncta_dist.telemetry.run_log.keep_log import keep_log, note
from medfuncta_dist.training.attempt import next_attempt
from medfuncta_dist.training.checkpoints.checkpoint import Checkpoints, Facts
from medfuncta_dist.training.checkpoints.training_state import AdamState
from tests.mapping_rows import read_mapping
from tests.native_scans import packed_volumes
from tests.unit.latents.fitted import packed, run_file
from tests.unit.prior.priors import committed

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
TEXT = PAGE.read_text(encoding="utf-8")
LISTED = r"^\| `((?:active|datasets|runs)/[^`]*)` \|"
"""Rows of the page's table of paths."""
SECTIONS = {
    "field": {"layers": 3, "hidden": 16, "latent": 8, "omega_first": 5, "omega_last": 10},
    "train": {"batch": 4, "steps": 6},
    "evaluate": {"pictures": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of file in it; training is played by its own writers, with a random network."""
    folder = tmp_path_factory.mktemp("formats")
    start = folder / "start"
    run = run_file(folder, **{**SECTIONS, "train": SECTIONS["train"] | {"start_from": str(start)}})
    store = ObjectStore(run.storage)
    start.mkdir()
    first = init_params(field_spec(run), torch.Generator().manual_seed(1))
    for name, data in SharedNetwork(field_spec(run), first, {}, {}, "0" * 64, "test").to_files().items():
        (start / name).write_bytes(data)
    freeze(run, store, fence=ALONE)
    packed(run, folder, counts={"train": 10, "test": 4})
    forget(open_place(run), Asked(keys=(read_mapping(folder / "private")[3].key,)), map_here)
    snapshot = pinned_snapshot(run, store, fence=ALONE)
    train(run, store, snapshot)
    fit(run, map_here)
    prior, _ = committed(run)
    data = safetensors.torch.save(prior.coordinates.tensors())
    store.write(f"{prior_folder(run.name)}/{prior.identity[:16]}/{COORDINATES_FILE}", data)
    table = locate_table(run, store)
    write_catalogue(store, table.folder, table.shards, ALONE)
    for metric in METRICS:
        make_index(run, metric, map_here)
    near_duplicates(run, "plain", map_here)
    run_summary.merge(store, run.name, "evaluate", evaluate(run, map_here), fence=ALONE)
    probe_run(run, ProbeOptions(classifiers=("linear",)))
    drive(run, store)
    return folder


def drive(run: RunFile, store: ObjectStore) -> None:
    """What drivers leave behind: leases that were held, a key that was answered, a job that could not succeed."""
    with (
        hold_lease(store, dataset_lease(run.dataset), 60, run.dataset),
        hold_lease(store, run_lease(run.name), 60, "") as fence,
    ):
        Submission.of(run, ["evaluate"], "monday").record(store, fence, {"run": run.name})
    write_job_record(store, run.name, SubmissionRecord("small-fit-1", ("fit",), 1, "kubernetes", 1.0, "0" * 64, "abc"))
    with keep_log(store, run.name, "small-fit-1", ["fit"]):
        note(["fit 13/13  done"])
    with ProgressRecorder(store, run.name, "fit") as recorder:
        recorder.record(ProgressReport("fit", 13, 13, {"quarantined": 0}))
    splits = {"train": ImportedSplit("0" * 64, 3)}
    body = Imported("0" * 64, (12, 12), 1, 1024, splits).body()
    publish(store, ALONE, NewRecord(imported_path(run.name), "imported", body))  # counts where nothing is packed
    with pytest.MonkeyPatch.context() as patch, suppress(RunFileError):
        patch.setenv(JOB_VARIABLE, "job-1")
        with recording_final_failure(store, run.name):
            raise RunFileError("wrong", where="key", do="mend")


def train(run: RunFile, store: ObjectStore, snapshot: Snapshot) -> None:
    """What is left behind by training on two ranks."""
    take_start(run, store, ALONE)
    params = init_params(field_spec(run), torch.Generator().manual_seed(0))
    attempt = next_attempt(store, run.name, fence=ALONE)
    events = EventLog(store, run.name, attempt.name)
    events.event("started", attempt=attempt.name, step=0, workers=2, pids=[1, 2])
    for step in range(1, 7):
        events.log(step, {"loss": 0.1 / step, "psnr": 10.0 + step})
    events.close()
    checkpoints = Checkpoints(store, run.name, attempt, keep=3, fence=ALONE)
    for step in (3, 6):
        digests = {"dataset_digest": snapshot.digest, "run_digest": run.digest(), "field_digest": run.digest("field")}
        facts = Facts(step=step, epoch=0, batch=step, **digests, zero_stage=1, world_size=2, code_version="test")
        files = [checkpoints.write_share(step, rank, 2, share(params, rank)) for rank in range(2)]
        checkpoints.commit(facts, files)
    commit_network(store, run, snapshot, Trained(field_spec(run), params), 0.1 / 6, 16.0, fence=ALONE)


def share(params: Params, rank: int) -> dict[str, AdamState]:
    """Every second parameter, with the moments of a learner that has not moved."""
    mine = {name: params[name] for name in list(params)[rank::2]}
    return {name: AdamState(p, torch.zeros_like(p), torch.zeros_like(p)) for name, p in mine.items()}


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Any]:
    """What the page's Python has defined when it has run, from top to bottom, beside the run's storage."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
            lines_before = TEXT[: block.start(1)].count("\n")  # so that a failure names the page's own line
            exec(compile("\n" * lines_before + block[1], PAGE.name, "exec"), names)
    return names


def test_the_pages_python_reads_scans_of_their_own_shapes(tmp_path: Path) -> None:
    run = packed_volumes(tmp_path, shapes=[(7, 6, 5), (3, 9, 8)])
    names: dict[str, Any] = {}
    for block in re.finditer(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        exec(compile(block[1], PAGE.name, "exec"), names)
        if "samples" in names:
            break
        names |= {"ROOT": Path(run.storage), "DATASET": run.dataset}
    assert sorted(meta["shape"] for _, _, meta in names["samples"].values()) == [[1, 3, 9, 8], [1, 7, 6, 5]]


def test_the_pages_python_reads_every_scan_and_its_latent(said):
    assert len(said["samples"]) == len(said["latents"]) == 13
    assert {split for split, _, _ in said["samples"].values()} == {"train", "test"}
    assert said["checkpoint"]["step"] == 6
    assert len(said["state"]) == 3 * len(said["theta"])
    assert len(said["loss"]) == 6


def test_the_pages_python_reads_int8_latents_with_units(said):
    units = np.array([1, 0.5, 0.1], np.float32)
    table = pa.table({"latent": [[1, -2, 127]], "scale": pa.array([0.3], pa.float32())}, schema=None)
    table = table.cast(pa.schema([("latent", pa.list_(pa.int8(), 3)), ("scale", pa.float32())]))
    table = table.replace_schema_metadata({"format_version": "2", **write_units(units)})
    read = said["phi"](table.to_pylist()[0], table.schema.metadata)
    assert read == pytest.approx(latents_of(table)[0].tolist())


def test_the_pages_python_notices_damage(said, folder):
    path = folder / "storage" / "runs" / "small" / "pin.json"
    record = json.loads(path.read_bytes())
    damaged = folder / "damaged.json"
    damaged.write_text(json.dumps(record | {"generation": 1}))
    with pytest.raises(AssertionError):
        said["record"](damaged, "pin")


@pytest.mark.parametrize("split", ["val", ["val", "test"]])
def test_the_pages_splits_are_those_of_the_code(said, split):
    slabs = {"size": 4, "period": 3, "gap": 2, "split": split}
    data = Data.model_validate({"source": "x", "shape": [8, 8], "slices": {"axis": 2}, "slabs": slabs})
    keys = np.random.default_rng(0).bytes(32 * 200).hex()
    for index in range(200):
        key = keys[64 * index : 64 * (index + 1)]
        assert said["split_by_slab"](index, **slabs) == split_of(key, index, None, data)
        assert said["split_by_key"](key, data.fractions) == split_of(key, None, None, data)


def test_the_page_lists_every_file_and_no_other(folder):
    listed = re.findall(LISTED, TEXT, re.MULTILINE)
    stored = [p.relative_to(folder / "storage").as_posix() for p in (folder / "storage").rglob("*") if p.is_file()]
    found = [[path for path in listed if pattern(path).fullmatch(name)] for name in stored]
    assert [name for name, paths in zip(stored, found, strict=True) if len(paths) != 1] == []
    assert sorted(listed) == sorted({path for paths in found for path in paths})


def pattern(path: str) -> re.Pattern[str]:
    """A path of the page, in which ``<…>`` stands for what differs."""
    return re.compile(re.sub(r"<[^>]*>", "[^/]+", path.replace(".", r"\.")))


def test_the_page_tells_every_field(folder):
    for path, section in sections():
        for file in (folder / "storage").rglob("*"):
            if pattern(path).fullmatch(file.relative_to(folder / "storage").as_posix()):
                missing = {name for name in fields(file) if f"`{name}`" not in section}
                assert not missing, f"{path}: {sorted(missing)}"


def sections() -> Iterator[tuple[str, str]]:
    parts = re.split(r"^### `([^`]*)`$", TEXT, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def fields(file: Path) -> list[str]:
    """Columns, or the keys of an object; of a commit record, those of its body."""
    if file.suffix == ".parquet":
        return list(pq.read_schema(file).names)
    if file.suffix != ".json":
        return []
    whole = json.loads(file.read_bytes())
    return list(whole.get("body") or whole.get("snapshot") or whole)


def test_the_page_lists_the_keys_that_digests_leave_out():
    table = TEXT.split("| key | left out of digests while it is |")[1].split("\n\n")[0]
    listed = {key: json.loads(value) for key, value in re.findall(r"^\| `(.*)` \| `(.*)` \|$", table, re.MULTILINE)}
    sections = RunFile.sections().items()
    assert listed == {f"{n}.{key}": value for n, kind in sections for key, value in added(kind.model_fields).items()}


def test_every_listed_file_has_its_section():
    listed = re.findall(LISTED, TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(path for path, _ in sections())
