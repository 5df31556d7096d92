"""A killed training in Weights & Biases, offline: real workers, its real client, its real files."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.network.committed_network import committed_network
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import logged_steps
from medfuncta_dist.telemetry.wandb_runs.open_wandb import work_folder
from medfuncta_dist.training.trainer import train
from tests.integration.training_runs import packed, run_file
from tests.wandb_files import artifacts, history, identity, records

pytestmark = pytest.mark.usefixtures("ray_cluster")

STEPS, SAVE = 60, 20


def test_a_killed_training_is_one_run_of_wandb_with_each_step_once(s3: Callable[[], str], tmp_path: Path) -> None:
    storage, name = s3(), f"tracked-{secrets.token_hex(4)}"
    snapshot, store = packed(storage, tmp_path), ObjectStore(storage)
    run = run_file(storage, name, steps=STEPS, checkpoint_steps=SAVE)
    run = run.model_copy(update={"telemetry": run.telemetry.model_copy(update={"wandb": "offline"})})
    pids: list[int] = []
    left = [SAVE]

    def kill(kind: str, fields: dict[str, Any]) -> None:
        if kind == "started":
            pids[:] = fields["pids"]
        if kind == "checkpoint" and left and fields["step"] >= left[0]:
            left.pop()
            os.kill(pids[0], signal.SIGKILL)

    try:
        assert train(run, snapshot, kill).attempts == 2
        first, second = sorted((work_folder(name) / "wandb").glob("offline-run-*"))
        killed, whole = records(first, killed=True), records(second)
    finally:
        shutil.rmtree(work_folder(name), ignore_errors=True)
    assert identity(killed) == identity(whole)
    assert identity(whole)[0].startswith(name)
    losses = [(step, numbers["loss"]) for step, numbers in history(whole)]
    assert losses == [(step, numbers["loss"]) for step, numbers in logged_steps(store, name)]
    assert [step for step, _ in history(whole)] == list(range(1, STEPS + 1))
    done = committed_network(store, name)
    assert done is not None
    used, made = artifacts(whole)
    assert (used["metadata"]["digest"], used["use_after_commit"]) == (snapshot, True)
    assert (made["metadata"]["digest"], made["metadata"]["dataset"]) == (done.digest, snapshot)
    assert made["files"] == {}
