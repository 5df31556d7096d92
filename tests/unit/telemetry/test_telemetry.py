from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medfuncta_dist.telemetry.artifact import Artifact, Role
from medfuncta_dist.telemetry.telemetry import Telemetry


class Remembering:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.calls.append(("log", step, metrics))

    def event(self, name: str, **fields: Any) -> None:
        self.calls.append(("event", name, fields))

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        self.calls.append(("image", name, step))

    def artifact(self, artifact: Artifact, role: Role) -> None:
        self.calls.append(("artifact", artifact.name, role))

    def flush(self) -> None:
        self.calls.append(("flush",))

    def close(self) -> None:
        self.calls.append(("close",))


class Failing(Remembering):
    def log(self, step: int, metrics: dict[str, float]) -> None:
        super().log(step, metrics)
        raise OSError("no route")


def refuses() -> Remembering:
    raise OSError("no server")


def test_every_sink_gets_everything() -> None:
    sinks = [Remembering(), Remembering()]
    telemetry = Telemetry([lambda: sinks[0], lambda: sinks[1]])
    telemetry.log(3, {"loss": 0.5})
    telemetry.event("checkpoint", step=3)
    telemetry.artifact(Artifact("network", "n", "0" * 64, {}), "output")
    telemetry.flush()
    telemetry.close()
    told = [("log", 3, {"loss": 0.5}), ("event", "checkpoint", {"step": 3}), ("artifact", "n", "output")]
    expected = [*told, ("flush",), ("close",)]
    assert [sink.calls for sink in sinks] == [expected, expected]


@pytest.mark.parametrize("images", [False, True])
def test_pictures_leave_only_if_the_run_file_says_so(images: bool) -> None:
    sink = Remembering()
    Telemetry([lambda: sink], images=images).image("slice", 1, np.zeros((2, 2)))
    assert sink.calls == ([("image", "slice", 1)] if images else [])


def test_a_failing_sink_is_dropped_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = Failing(), Remembering()
    telemetry = Telemetry([refuses, lambda: bad, lambda: good])
    telemetry.log(1, {})
    telemetry.log(2, {})
    assert [call[1] for call in bad.calls] == [1]
    assert [call[1] for call in good.calls] == [1, 2]
    said = capsys.readouterr()
    assert "no server" in said.err
    assert "no route" in said.err
    assert said.out == ""
