"""The command ``export-latents``: a run's latent table as files of the public code, a folder for each split.

``<out>/<split>/datapoint_<n>.pt``, as its classifier reads them. Parts are read one at a time. Files that are there
already stay, so that the command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.exchange.import_task import LABEL_FORM
from medfuncta_dist.exchange.latent_file import MIXED, LabelForm, latent_bytes
from medfuncta_dist.exchange.latent_folder import STEM
from medfuncta_dist.exchange.paired_scans import scan_numbers
from medfuncta_dist.exchange.public_network import schedule_of
from medfuncta_dist.exchange.torch_file import RefusedFileError
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import TableLocation
from medfuncta_dist.fitting.fit_plan import FitWork, cover
from medfuncta_dist.fitting.whole_scans import locate_whole_scans
from medfuncta_dist.latents import table_format
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.shards.snapshot import read_index
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.local_objects import TEMPORARY, replacing
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import strict_json
from medfuncta_dist.telemetry.progress_report import OnProgress, ProgressReport, ignore_progress

COMMAND = "export-latents"
MARK = "medfuncta-export.json"
"""Says which table a folder was written from, so that files of two tables never lie in one."""
LARGEST_MARK = 4096


def export_latents(run: RunFile, out: Path, on_progress: OnProgress = ignore_progress) -> dict[str, Any]:
    """Write the table's latents, with their labels; the figures of the command.

    A latent of an npz or CSV file gets the number that its scan has there. Otherwise, and in a table that was imported
    without scans, the numbers of a split count its latents in the table's order.

    Raises:
        StageOrderError: nothing is fitted yet.
        RunFileError: the run has patches; the latents are of a field that the public code does not have; the folder
            holds something else; or the labels of imported files had several forms.
        IntegrityError: a part is not the one that was committed.
    """
    store = ObjectStore(run.storage)
    target = locate_whole_scans(run, store, "export-latents")
    _require_public(store, target)
    commits = latent_ledger.read_commits(store, target.folder)
    works, _ = cover(target.works, commits)
    total = sum(commits[work.name].rows for work in works)
    if not total:
        raise StageOrderError("there are no latents yet", where=store.uri(target.folder), do="run the fit stage first")
    _mark(out, {"format_version": 1, "table": target.folder, "network": target.network.digest})
    done, written, numbers = 0, 0, _Numbers(store, target)
    for work in works:
        if (part := commits[work.name].part) is None:
            continue
        table = table_format.read_part(store, target.folder, part)
        written += _write(out / work.split, table, numbers.of(work, table))
        done += table.num_rows
        on_progress(ProgressReport(COMMAND, done, total))
    said = f"{COMMAND}: {done} latents in {out}"
    said += f", {done - written} of them there before" if written < done else ""
    return {"folder": str(out), "latents": done, "written": written, "network": target.network.digest, "said": [said]}


def _require_public(store: ObjectStore, target: TableLocation) -> None:
    try:
        schedule_of(load_network(store, target.network).spec)
    except RefusedFileError as error:
        do = "export latents of a run with field.kind siren"
        raise RunFileError(f"these latents cannot be exported: {error.what}", where="field", do=do) from error


def _mark(out: Path, mark: Mapping[str, Any]) -> None:
    """RunFileError unless the folder is new, empty, or of the same table."""
    path = out / MARK
    if path.exists():
        with path.open("rb") as file:
            found = strict_json.parse_object(file.read(LARGEST_MARK), "the mark of an export", str(path))
        if found == mark:
            return
        raise RunFileError("the folder holds latents of another table", where=str(out), do="name a new folder")
    if out.exists() and any(not one.name.startswith(TEMPORARY) for one in out.iterdir()):
        raise RunFileError("the folder is not empty", where=str(out), do="name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(canonical_json(mark))


class _Numbers:
    """The numbers of a table's files."""

    def __init__(self, store: ObjectStore, target: TableLocation) -> None:
        self._store = store
        splits = target.snapshot.splits if target.has_scans else {}
        chosen = {work.split for work in target.works}
        self._given = {split: scan_numbers(store, shards) for split, shards in splits.items() if split in chosen}
        self._next = {split: count() for split in chosen}

    def of(self, work: FitWork, table: pa.Table) -> list[int]:
        """Of a part's rows, in their order; parts are asked for in the table's order."""
        given = self._given.get(work.split)
        if given is None:
            return [next(self._next[work.split]) for _ in range(table.num_rows)]
        keys = read_index(self._store, work.shard)["key"].to_pylist()
        known = dict(zip(keys, given[work.shard.sha256].tolist(), strict=True))
        return [known[key] for key in table["key"].to_pylist()]


def _write(folder: Path, table: pa.Table, numbers: list[int]) -> int:
    """Write a part's files; how many were not there before."""
    folder.mkdir(exist_ok=True)
    form = _form(table)
    return sum(_write_one(folder / f"{STEM}{n}.pt", *row, form) for n, row in zip(numbers, _rows(table), strict=True))


def _form(table: pa.Table) -> LabelForm:
    """Of a part's labels. RunFileError where its files had several."""
    text = (table.schema.metadata or {}).get(LABEL_FORM.encode(), b"").decode()
    if text == MIXED:
        raise RunFileError(
            "the labels of this table came in several forms (numbers, lists, tensors of several types), of which it "
            "keeps the values only: they cannot be written as they were",
            where="the imported files",
            do="write the labels of the files in one form, and import them into a new run; or use the files themselves",
        )
    return LabelForm.of_text(text)


def _rows(table: pa.Table) -> Iterator[tuple[np.ndarray, list[int]]]:
    return zip(table_format.latents_of(table), table["labels"].to_pylist(), strict=True)


def _write_one(path: Path, latent: np.ndarray, labels: list[int], form: LabelForm) -> bool:
    if path.exists():
        return False
    with replacing(path, durable=False) as part:
        part.write_bytes(latent_bytes(latent, labels, form))
    return True
