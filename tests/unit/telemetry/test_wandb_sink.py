from __future__ import annotations

import time
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.telemetry_section import Telemetry
from medfuncta_dist.telemetry.wandb_sink import WandbSink, mode_of, public_config


def test_offline_unless_a_key_is_set() -> None:
    assert mode_of(Telemetry(), key_is_set=False) == "offline"
    assert mode_of(Telemetry(), key_is_set=True) == "online"
    assert mode_of(Telemetry(wandb="offline"), key_is_set=True) == "offline"
    assert mode_of(Telemetry(wandb="off"), key_is_set=True) == "off"


RUN = RunFile(name="w", storage="/somewhere/secret", data=Data(source="/home/owner/patients/*.nii", shape=[8, 8]))


def test_the_config_names_no_place() -> None:
    assert "secret" not in str(public_config(RUN))
    assert "patients" not in str(public_config(RUN))


def test_an_offline_run_holds_what_was_logged_and_no_trace_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    sink = WandbSink(RUN, "000001-a", tmp_path)
    sink.log(1, {"loss": 0.2578125, "rate": 1e-3})
    sink.event("checkpoint", step=1)
    sink.close()
    [file] = tmp_path.rglob("*.wandb")
    _wait_for(file, b"0.2578125")
    assert b"loss" in file.read_bytes()
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".log")
    assert b"patients" not in content
    assert b"hostname" not in content.lower()
    assert capfd.readouterr().out == ""


def _wait_for(file: Path, text: bytes) -> None:
    """W&B's own process writes the file, and may still be at it when ``finish`` returns."""
    deadline = time.monotonic() + 20
    while text not in file.read_bytes():
        assert time.monotonic() < deadline, f"{text!r} never appeared"
        time.sleep(0.05)
