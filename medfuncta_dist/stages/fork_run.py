"""A new run that starts from the trained network of another: its run file, checked as if it were about to train."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medfuncta_dist.config.load import load, parse, read_given
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.run.begun_overrides import find_overrides
from medfuncta_dist.stages.preflight import check_training
from medfuncta_dist.storage.object_store import ObjectStore

STAGES = "train fit evaluate"


def fork_run(path: str, new: str, overrides: Sequence[str], out: str) -> dict[str, Any]:
    """Write ``out``: the run file at ``path`` as that run was begun, with ``overrides``, under the name ``new``, on the
    same data set, and with ``train.start_from``: that run, unless the overrides name another.

    Raises:
        RunFileError: a name or a key is wrong, the architecture is another, or the file or the run is there already.
        StageOrderError: the other run has no trained network.
    """
    from medfuncta_dist.network.start_network import check_start
    from medfuncta_dist.shards.snapshot import load_snapshot

    former = load(path)
    whole = read_given(path, [*find_overrides(former, ObjectStore(former.storage)), *overrides])
    given = forked(former, whole, new, keeps_start=_names(overrides, "start_from"))
    if not _names(overrides, "schedule_steps"):
        given["train"].pop("schedule_steps", None)  # the new run has a schedule of its own
    text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    run = parse(text, where=out)
    text = f"# Written by `medfuncta-dist fork`: starts from {_one_line(run.train.start_from)}.\n{text}"
    store = ObjectStore(run.storage)
    _require_new(run, store)
    digest = check_start(run, store)
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    check_training(run, snapshot)
    _write(Path(out), text)
    return {
        "run_file": out,
        "name": run.name,
        "started_from": run.train.start_from,
        "network": digest,
        "dataset": run.dataset,
        "snapshot": snapshot.digest,
        "said": _said(run, out, str(digest)),
    }


def forked(former: RunFile, given: dict[str, Any], new: str, keeps_start: bool = False) -> dict[str, Any]:
    """What a run file says, as that of a new run that starts from ``former``; what it already says of the data set
    stays, and with ``keeps_start`` what it says of the start."""
    sections = {name: dict(given.get(name) or {}) for name in ("data", "train")}
    sections["data"]["dataset"] = sections["data"].get("dataset") or former.dataset
    if not keeps_start or sections["train"].get("start_from") is None:
        sections["train"]["start_from"] = former.name
    return {**given, **sections, "name": new}


def _names(overrides: Sequence[str], key: str) -> bool:
    """Whether one of the overrides gives this key of the section ``train``, by itself or with the whole section."""
    found = [text.partition("=") for text in overrides]
    whole = [yaml.safe_load(value) for name, _, value in found if name == "train"]
    return any(name == f"train.{key}" for name, _, _ in found) or any(
        isinstance(section, dict) and key in section for section in whole
    )


def _one_line(start: str | None) -> str:
    """A start for a comment. A folder's name may have line breaks."""
    return " ".join(str(start).splitlines())


def _require_new(run: RunFile, store: ObjectStore) -> None:
    folder = f"runs/{run.name}"
    if store.list(folder):
        raise RunFileError(
            f"there is a run {run.name} already", where=store.uri(folder), do="give the new run another name"
        )


def _write(path: Path, text: str) -> None:
    try:
        path.touch(exist_ok=False)
        path.write_text(text)
    except FileExistsError:
        do = "name another with --out"
        raise RunFileError("there is a file already, and it is not replaced", where=str(path), do=do) from None
    except OSError as error:
        what = f"the run file cannot be written: {error.strerror}"
        raise RunFileError(what, where=str(path), do="name another with --out") from None


def _said(run: RunFile, out: str, digest: str) -> list[str]:
    file = shlex.quote(out)
    return [
        f"written: {out}",
        f"{run.name} starts from the network of {run.train.start_from}, {digest[:12]}, on the data set {run.dataset}: "
        "nothing is packed again",
        f"next, here: medfuncta-dist run {file} {STAGES}",
        f"next, as a job: medfuncta-dist submit {file} {STAGES}",
    ]
