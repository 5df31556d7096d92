"""The prior through the training loop in a rank's own process: it learns, measures, and what it saves is what it is."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.prior.prior_driver import identity_of, prepare
from medfuncta_dist.prior.prior_latents import find_source, read_splits
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from medfuncta_dist.telemetry.event_log import history, read_events
from medfuncta_dist.training.checkpoints.checkpoint import newest_first, read_checkpoint
from medfuncta_dist.training.driver_channel import DriverChannel
from tests.unit.forget.archives import write_run_file
from tests.unit.latents.fitted import ready
from tests.unit.training.loops import Here
from tests.unit.training.ranks import on_ranks

STEPS = 40
SECTIONS: dict[str, Any] = {
    "prior": {"steps": STEPS, "batch": 8, "width": 8, "blocks": 1, "rate": 1e-2},
    "telemetry": {"wandb": "off", "log_steps": 1},
}


def trained(folder: Path, stage: int) -> dict[str, Any]:
    from medfuncta_dist.training import train_worker  # with deepspeed, which belongs into a rank's process

    run = ready(folder, kind="basis", train={"zero_stage": stage}, **SECTIONS)
    write_run_file(run)
    fit(run, map_here)
    store, here = ObjectStore(run.storage), Here()
    source = find_source(run, store)
    latents = read_splits(store, source, ["train"])
    subject = prepare(run, store, source, latents, identity_of(run, source), lambda text: None, ALONE)
    placed = subject.placed(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medfuncta_dist.training.reporting.leader.CHECK_S", math.inf)
        channel = DriverChannel(here, lambda answer: answer)
        with train_worker.open_training(placed, subject, channel, ALONE, "node", time.time()) as loop:
            loop.finish()
            params = {name: tensor.clone() for name, tensor in loop.engine.full_parameters().items()}
    _, tensors = read_checkpoint(store, newest_first(store, f"{subject.folder}/checkpoints")[0])
    return {
        "losses": [loss for _, loss in history(store, placed.name, "loss")],
        "held_out": [step for step, _ in history(store, placed.name, "held_out_loss")],
        "moved": float(params["out.weight"].abs().max()),
        "saved": all(torch.equal(tensors[f"param/{name}"], tensor) for name, tensor in params.items()),
        "events": [line["name"] for line in read_events(store, placed.name) if line["kind"] == "event"],
        "elsewhere": [info.path for info in store.list(f"runs/{run.name}/checkpoints")],
        "notes": [fields["text"] for kind, fields in here.mailbox.drain() if kind == "note"],
    }


@pytest.mark.parametrize("stage", [1, 3])
def test_a_prior_learns_in_the_loop_and_keeps_its_files_apart(stage: int, tmp_path: Path) -> None:
    [found] = on_ranks(1, trained, tmp_path, stage, folder=tmp_path)
    assert len(found["losses"]) == STEPS
    assert found["losses"][0] == pytest.approx(1, abs=0.5), "it begins with the Gaussian's answer"
    assert found["moved"] > 0.01
    assert found["held_out"] == list(range(2, STEPS + 1, 2))
    assert found["saved"]
    assert found["events"][0] == "started"
    assert found["events"][-1] == "finished"
    assert found["elsewhere"] == []
    assert not any("mean scan" in note for note in found["notes"]), "signs of a collapse are the network's"
