"""How long Ray Train waits for a process group that does not end: its workers are killed next, and start again."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import GetTimeoutError
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import config as ray_s

from medfuncta_dist.training.trainer import SHUTDOWN_S, QuickShutdown


class StuckGroup:
    """Workers whose process group is never destroyed."""

    def __len__(self) -> int:
        return 2

    def execute_async(self, *_: Any, **__: Any) -> list[str]:
        return ["never"]


@pytest.mark.parametrize(("given", "waited"), [(None, SHUTDOWN_S), ("17", 17)])
def test_the_controller_waits_a_few_seconds_or_as_long_as_it_was_told(
    given: str | None, waited: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the controller does: it has the config pickled, and the driver's variables only as far as Ray passes them."""
    monkeypatch.setenv(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S, given or "")
    if given is None:
        monkeypatch.delenv(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S)
    timeouts: list[float] = []

    def get(_: Any, timeout: float) -> None:
        timeouts.append(timeout)
        raise GetTimeoutError("stuck")

    monkeypatch.setattr(ray_s, "ray", SimpleNamespace(get=get))
    there = pickle.loads(cloudpickle.dumps(QuickShutdown(timeout_s=1800)))
    assert there.timeout_s == 1800
    there.backend_cls().on_shutdown(StuckGroup(), there)
    assert timeouts == [waited]
    assert SHUTDOWN_S <= 10, "less than a restart takes"
    assert os.environ[TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S] == str(waited)
