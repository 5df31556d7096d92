"""The train loop: the numbers of a step are read one step later, and nothing wrong is kept or said for that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.training.optim.learning_rate import learning_rate
from medfuncta_dist.training.reporting.previous_attempts import told_of_device
from tests.integration.training_runs import run_file
from tests.kinds import KINDS
from tests.unit.training.loops import packed_here, trained
from tests.unit.training.ranks import on_ranks

STEPS, SPOILED = 7, 4
"""The second: the step after which the parameters are spoiled, so that the loss of the next is not finite."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return packed_here(tmp_path_factory.mktemp("scans"))


def logged_every(storage: str, name: str, kind: str, log_steps: int, **train: Any) -> RunFile:
    run = run_file(storage, name, kind=kind, **{"steps": STEPS, "zero_stage": 1, **train})
    return run.model_copy(update={"telemetry": run.telemetry.model_copy(update={"log_steps": log_steps})})


def spoils(step: int) -> Callable[[pytest.MonkeyPatch], None]:
    """This step's rate is far too large."""

    def change(patch: pytest.MonkeyPatch) -> None:
        def rate(index: int, train: Any) -> float:
            return 1e30 if index == step - 1 else learning_rate(index, train)

        patch.setattr("medfuncta_dist.training.train_worker.learning_rate", rate)

    return change


def two_trainings(kind: str, storage: str, snapshot: str) -> list[dict[str, Any]]:
    """Read at every step, and only at the third and the sixth."""
    return [trained(logged_every(storage, f"{kind}-{every}", kind, every), snapshot) for every in (1, 3)]


def test_numbers_that_are_read_later_are_the_same_numbers(kind: str, here: tuple[str, str], tmp_path: Path) -> None:
    [[always, seldom]] = on_ranks(1, two_trainings, kind, *here, folder=tmp_path)
    assert always["steps"] == always["logged"]
    assert [step for step, _ in always["steps"]] == list(range(1, STEPS + 1))
    assert seldom["steps"] == always["steps"], "each step is told with its own loss"
    losses, norms = (dict(map(tuple, always[what])) for what in ("logged", "norms"))
    assert seldom["norms"] == [[step, norms[step]] for step in (3, 6, 7)]
    means = {3: (1, 2, 3), 6: (4, 5, 6), 7: (7,)}
    for step, mean in seldom["logged"]:
        assert mean == sum(losses[one] for one in means[step]) / len(means[step])
    assert always["network"] == seldom["network"] != ""


def collapsed(kind: str, storage: str, snapshot: str, name: str, train: dict[str, Any]) -> dict[str, Any]:
    return trained(logged_every(storage, f"{kind}-{name}", kind, 100, **train), snapshot, spoils(SPOILED))


@pytest.mark.parametrize("saves", [SPOILED + 1, 1000])
def test_a_collapse_between_logged_steps_is_told_of_its_own_step_and_nothing_after_it_is_saved(
    kind: str, saves: int, here: tuple[str, str], tmp_path: Path
) -> None:
    """Whether the next step would be taken, or a checkpoint be saved before. A basis field cannot even take it."""
    train = {"checkpoint_steps": saves}
    [found] = on_ranks(1, collapsed, kind, *here, f"spoiled-{saves}", train, folder=tmp_path)
    assert re.fullmatch(f"the (loss|gradient norm) of outer step {SPOILED + 1} is (nan|inf)", found["error"])
    assert [step for step, _ in found["steps"]] == list(range(1, SPOILED + 1))
    assert found["checkpoints"] == []
    assert found["network"] == ""
    assert found["psnr"] == []
    assert not any(event["name"] in ("checkpoint", "finished") for event in found["events"])


def validated(storage: str, snapshot: str) -> dict[str, Any]:
    run = logged_every(storage, "validated", "siren", 100, validate_steps=SPOILED + 1)
    return trained(run, snapshot, spoils(SPOILED))


def test_no_validation_is_made_of_a_network_that_collapsed(here: tuple[str, str], tmp_path: Path) -> None:
    [found] = on_ranks(1, validated, *here, folder=tmp_path)
    assert re.fullmatch(f"the (loss|gradient norm) of outer step {SPOILED + 1} is (nan|inf)", found["error"])
    assert found["psnr"] == []


def on_two_models(storage: str, snapshot: str) -> list[dict[str, Any]]:
    """The same run on one model of GPU to step 2, on another to step 4, and there to the end."""
    found = []
    for steps, model in ((2, "Tesla V100"), (4, "NVIDIA H100"), (6, "NVIDIA H100")):
        run = logged_every(storage, "moved", "siren", 1, steps=steps)

        def change(patch: pytest.MonkeyPatch, model: str = model) -> None:
            patch.setattr("medfuncta_dist.training.rank_setup.device_model", lambda device: model)

        found.append(trained(run, snapshot, change))
    return found


def test_a_run_that_goes_on_with_another_model_of_gpu_says_what_it_no_longer_promises(
    here: tuple[str, str], tmp_path: Path
) -> None:
    [[first, moved, again]] = on_ranks(1, on_two_models, *here, folder=tmp_path)
    told = [[note for note in found["notes"] if "H100" in note or "V100" in note] for found in (first, moved, again)]
    assert [len(notes) for notes in told] == [0, 1, 0]
    [note] = told[1]
    assert "written on Tesla V100, training goes on with NVIDIA H100" in note
    assert "same order" in note
    assert "last bit" in note
    started = [event["device"] for event in again["events"] if event["name"] == "started"]
    assert started == ["Tesla V100", "NVIDIA H100", "NVIDIA H100"]


@pytest.mark.parametrize(("before", "now"), [("", "cpu"), ("cpu", "cpu"), ("A, B", "A, B")])
def test_nothing_is_said_of_a_model_that_stays_or_was_not_recorded(before: str, now: str) -> None:
    assert told_of_device(before, now) is None
