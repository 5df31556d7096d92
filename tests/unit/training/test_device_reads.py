"""Between logged steps the host reads nothing from the device: on a GPU each read waits for all it was given to do.

Counted on a CPU, in whole train loops at ZeRO 0, 1 and 2. ZeRO 3 has waits of its own that no setting removes
(docs/decisions/training.md), and so has the solve of a basis field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit.training.device_reads import device_reads
from tests.unit.training.loops import packed_here, trained
from tests.unit.training.ranks import on_ranks
from tests.unit.training.test_train_loop import STEPS, logged_every

HOST = {
    "torch.tensor medfuncta_dist/training/world.py: sum",
    "torch.tolist medfuncta_dist/training/world.py: sum",
    "torch.tolist medfuncta_dist/training/step_numbers.py: read",
    "aten._local_scalar_dense torch/optim/optimizer.py: _get_value",
}
"""Of tensors that are on the host anyway: what ranks tell each other, the numbers of the step before, when they have
arrived, and AdamW's step counts."""
SETTINGS: list[dict[str, Any]] = [
    {"zero_stage": 0},
    {"zero_stage": 0, "optimizer": "muon"},
    {"zero_stage": 1},
    {"zero_stage": 1, "clip": 1.0, "rate_by_omega": True},
    {"zero_stage": 2},
]
CLIPPED = SETTINGS[3]
"""The one with which DeepSpeed reads most: once per group of parameters."""


def nothing(*_: Any) -> bool:
    return False


def reads_of(storage: str, snapshot: str, name: str, train: dict[str, Any], put_back: str = "") -> dict[str, int]:
    """What is read in the steps between the first and the last, the two that are logged."""
    counted: list[Counter[tuple[str, str]]] = []

    @contextmanager
    def around(loop: Any) -> Iterator[None]:
        with device_reads(lambda: 0 < loop.heartbeat._heartbeat.step < STEPS - 1) as reads:
            yield
        counted.append(reads)

    def change(patch: pytest.MonkeyPatch) -> None:
        if put_back != "backward":  # which reads where reading is free, as it is here
            patch.setattr("medfuncta_dist.meta.outer_loop.can_be_read_freely", nothing)
        if put_back == "norms":
            patch.setattr("medfuncta_dist.training.optim.engine._keep_norms_on_the_device", nothing)

    assert trained(logged_every(storage, name, "siren", 100, **train), snapshot, change, around)["network"]
    return {" ".join(read): count for read, count in counted[0].items()}


def all_reads(storage: str, snapshot: str) -> dict[str, Any]:
    """With what was removed put back first: ZeRO's module keeps what it was once given."""
    kept = {what: reads_of(storage, snapshot, f"with-{what}", CLIPPED, what) for what in ("norms", "backward")}
    return kept | {"none": [reads_of(storage, snapshot, f"s-{n}", train) for n, train in enumerate(SETTINGS)]}


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("reads")
    [found] = on_ranks(1, all_reads, *packed_here(folder), folder=folder)
    return found


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_nothing_is_read_between_logged_steps(number: int, reads: dict[str, Any]) -> None:
    assert set(reads["none"][number]) == HOST, SETTINGS[number]


def test_what_was_removed_would_be_found(reads: dict[str, Any]) -> None:
    between = STEPS - 2
    weights = "aten._local_scalar_dense medfuncta_dist/meta/outer_loop.py: common_weight"
    assert reads["backward"][weights] == between
    asked = "aten._local_scalar_dense deepspeed/runtime/utils.py: is_invalid_grad_norm"
    masked = "torch.tensor deepspeed/runtime/utils.py: mask_nan_or_inf_with_val_inplace"
    groups = reads["norms"][masked] // between
    assert groups > 1
    assert reads["norms"][asked] == (1 + groups) * between
