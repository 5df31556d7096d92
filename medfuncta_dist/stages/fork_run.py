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
    same data set, and with ``train.start_from``.

    Raises:
        RunFileError: a name or a key is wrong, the architecture is another, or the file or the run is there already.
        StageOrderError: the other run has no trained network.
    """
    from medfuncta_dist.network.start_network import check_start
    from medfuncta_dist.shards.snapshot import load_snapshot

    former = load(path)
    given = forked(former, read_given(path, [*find_overrides(former, ObjectStore(former.storage)), *overrides]), new)
    if "train.schedule_steps" not in {text.partition("=")[0] for text in overrides}:
        given["train"].pop("schedule_steps", None)  # the new run has a schedule of its own
    text = f"# Written by `medfuncta-dist fork`: starts from {former.name}.\n"
    text += yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    run = parse(text, where=out)
    store = ObjectStore(run.storage)
    _require_new(run, store)
    digest = check_start(run, store)
    snapshot = load_snapshot(store, run.dataset, run.data.snapshot)
    check_training(run, snapshot)
    _write(Path(out), text)
    return {
        "run_file": out,
        "name": run.name,
        "started_from": former.name,
        "network": digest,
        "dataset": run.dataset,
        "snapshot": snapshot.digest,
        "said": _said(former, run, out, str(digest)),
    }


def forked(former: RunFile, given: dict[str, Any], new: str) -> dict[str, Any]:
    """What a run file says, as that of a new run that starts from ``former``; what it already says otherwise of the
    data set or the start stays."""
    sections = {name: dict(given.get(name) or {}) for name in ("data", "train")}
    sections["data"]["dataset"] = sections["data"].get("dataset") or former.dataset
    if sections["train"].get("start_from") in (None, former.train.start_from):
        sections["train"]["start_from"] = former.name
    return {**given, **sections, "name": new}


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


def _said(former: RunFile, run: RunFile, out: str, digest: str) -> list[str]:
    file = shlex.quote(out)
    return [
        f"written: {out}",
        f"{run.name} starts from the network of {former.name}, {digest[:12]}, on the data set {run.dataset}: nothing "
        "is packed again",
        f"next, here: medfuncta-dist run {file} {STAGES}",
        f"next, as a job: medfuncta-dist submit {file} {STAGES}",
    ]
