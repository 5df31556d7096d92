"""A training that is killed and goes on, in Weights & Biases: a rank's own process, and W&B's real client, offline."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.network.committed_network import committed_network
from medfuncta_dist.storage.leftovers import WORK
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.event_log import logged_steps
from tests.integration.training_runs import run_file
from tests.unit.training.loops import packed_here, trained
from tests.unit.training.ranks import on_ranks
from tests.wandb_files import artifacts, history, identity, records

STEPS, SAVED, KILLED = 12, 4, 7


def attempt(run: str, snapshot: str, killed_at: int) -> str:
    """Train, with the telemetry that a worker has, until this step is logged."""
    from medfuncta_dist.training import rank_setup
    from medfuncta_dist.training.reporting.leader import Leader
    from medfuncta_dist.training.reporting.telemetry_sinks import open_telemetry

    log = Leader.log

    def log_and_die(leader: Leader, step: int, **metrics: float) -> None:
        log(leader, step, **metrics)
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def change(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(rank_setup, "open_telemetry", open_telemetry)
        patch.setattr(Leader, "log", log_and_die)

    network: str = trained(RunFile.model_validate_json(run), snapshot, change)["network"]
    return network


def by_name(logged: list[tuple[int, dict[str, float]]]) -> dict[str, list[float]]:
    """Each number's values. Those of a checkpoint are known after the next step, where W&B has them."""
    names = {name for _, numbers in logged for name in numbers}
    return {name: [numbers[name] for _, numbers in logged if name in numbers] for name in names}


def test_a_killed_training_is_one_run_of_wandb_with_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    # As ranks inherit it, where the process that starts them has W&B open: not theirs to use.
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-{tmp_path / 'of-another-process'}")
    storage, snapshot = packed_here(tmp_path)
    run = run_file(storage, "tracked", steps=STEPS, checkpoint_steps=SAVED)
    run = run.model_copy(update={"telemetry": run.telemetry.model_copy(update={"wandb": "offline"})})
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        on_ranks(1, attempt, run.model_dump_json(), snapshot, KILLED, folder=tmp_path)
    [network] = on_ranks(1, attempt, run.model_dump_json(), snapshot, STEPS + 1, folder=tmp_path)

    first, second = sorted((tmp_path / "tmp" / WORK / run.name / "wandb").glob("offline-run-*"))
    whole = records(second)
    assert identity(whole)[0].startswith("tracked-2")
    # Of the killed one, W&B may have written nothing but its folder, which has the id in its name.
    assert first.name.endswith(f"-{identity(whole)[0]}")
    assert [step for step, _ in history(whole)] == list(range(1, STEPS + 1))
    assert by_name(history(whole)) == by_name(logged_steps(ObjectStore(storage), run.name))

    used, made = artifacts(whole)
    assert (used["metadata"]["digest"], used["use_after_commit"]) == (snapshot, True)
    assert (made["metadata"]["digest"], made["metadata"]["dataset"], made["files"]) == (network, snapshot, {})
    done = committed_network(ObjectStore(storage), run.name)
    assert done is not None
    assert (done.digest, made["metadata"]["steps"]) == (network, STEPS)
