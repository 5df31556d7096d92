from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.telemetry_section import Telemetry
from medfuncta_dist.telemetry.artifact import Artifact
from medfuncta_dist.telemetry.wandb_runs.tracked_run import TrackedRun
from medfuncta_dist.telemetry.wandb_runs.wandb_sink import WandbSink, mode_of, public_config
from tests.wandb_files import artifacts, history, identity, records


def test_offline_unless_a_key_is_set() -> None:
    assert mode_of(Telemetry(), key_is_set=False) == "offline"
    assert mode_of(Telemetry(), key_is_set=True) == "online"
    assert mode_of(Telemetry(wandb="offline"), key_is_set=True) == "offline"
    assert mode_of(Telemetry(wandb="off"), key_is_set=True) == "off"


RUN = RunFile(name="w", storage="/somewhere/secret", data=Data(source="/home/owner/patients/*.nii", shape=[8, 8]))
FIRST = TrackedRun("w-20260711T101500-9f3a", "train")
DATA = Artifact("dataset", "chest", "d" * 64, {"scans": {"train": 40}})
NETWORK = Artifact("network", "w-network", "e" * 64, {"dataset": "d" * 64, "psnr": 31.5})
FILES = {"network.safetensors": b"weights", "network.json": b"{}"}


def test_the_config_names_no_place() -> None:
    assert "secret" not in str(public_config(RUN))
    assert "patients" not in str(public_config(RUN))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor a home folder, which a pod may not have: what W&B keeps goes where it is told."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "none"))


def test_an_offline_run_holds_what_was_logged_and_no_trace_of_the_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = WandbSink(RUN, FIRST, tmp_path / "run")
    sink.log(1, {"loss": 0.2578125, "rate": 1e-3})
    sink.event("checkpoint", step=1)
    sink.artifact(DATA, "input")
    sink.artifact(NETWORK, "output")
    sink.close()
    found = records(sink.folder)
    assert history(found) == [(1, {"loss": 0.2578125, "rate": 1e-3})]
    assert [record["run"].keys() & {"host", "username", "git"} for record in found if "run" in record] == [set()]
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.suffix != ".log"]
    content = b"".join(path.read_bytes() for path in written)
    assert b"loss" in content
    assert b"patients" not in content
    assert b"secret" not in content
    assert b"hostname" not in content.lower()
    assert not (tmp_path / "none").exists()
    assert capfd.readouterr().out == ""


def test_a_later_attempt_has_the_same_id_and_is_whole_with_each_step_once(tmp_path: Path) -> None:
    """The first is killed after step 5, four steps after its checkpoint; storage has what it logged."""
    logged: list[tuple[int, dict[str, float]]] = []
    first = WandbSink(RUN, FIRST, tmp_path / "one")
    for step in range(1, 6):
        logged.append((step, {"loss": 1 / step}))
        first.log(*logged[-1])
    first.close()
    second = WandbSink(RUN, replace(FIRST, history=lambda: logged), tmp_path / "another-machine")
    second.event("started", step=1)
    for step in range(2, 8):
        second.log(step, {"loss": 1 / step})
        second.log(step, {"rate": 0.5})
    second.close()
    found = records(first.folder), records(second.folder)
    assert identity(found[0]) == identity(found[1]) == ("w-20260711T101500-9f3a", "w", "train")
    assert [step for step, _ in history(found[1])] == list(range(1, 8))
    assert history(found[1])[3] == (4, {"loss": 0.25, "rate": 0.5})


def test_what_is_told_of_a_step_after_the_next_is_not_lost(tmp_path: Path) -> None:
    sink = WandbSink(RUN, FIRST, tmp_path)
    sink.log(8, {"loss": 0.5})
    sink.log(9, {"loss": 0.25})
    sink.log(8, {"checkpoint_stall_s": 2.0})
    sink.close()
    assert history(records(sink.folder)) == [(8, {"loss": 0.5}), (9, {"loss": 0.25, "checkpoint_stall_s": 2.0})]


def test_the_first_attempt_does_not_ask_what_was_logged_before(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError

    sink = WandbSink(RUN, replace(FIRST, history=never), tmp_path)
    sink.event("started", step=0)
    sink.close()


def test_no_public_call_of_wandb_names_an_input_offline(tmp_path: Path) -> None:
    """Once this fails, the sink need not call a private one any more. That the private one is there and does what it
    should, the next test sees in W&B's own files."""
    sink = WandbSink(RUN, FIRST, tmp_path)
    try:
        with pytest.raises(TypeError, match="offline"):
            sink._run.use_artifact(sink._version_of(DATA))
    finally:
        sink.close()


@pytest.mark.parametrize("asked", [False, True])
def test_artifacts_are_versions_by_digest_linked_to_the_run_and_have_no_content_unless_asked(
    asked: bool, tmp_path: Path
) -> None:
    sink = WandbSink(RUN, FIRST, tmp_path)
    sink.artifact(DATA, "input")
    sink.artifact(replace(NETWORK, read_files=lambda: FILES if asked else {}), "output")
    sink.close()
    used, made = artifacts(records(sink.folder))
    assert (used["type"], used["name"], used["use_after_commit"]) == ("dataset", "chest", True)
    assert (made["type"], made["name"], made["use_after_commit"]) == ("model", "w-network", False)
    assert used["references"] == {"dataset": f"medfuncta://dataset/{'d' * 64}"}
    assert made["references"] == {"network": f"medfuncta://network/{'e' * 64}"}
    assert made["metadata"] == {"digest": "e" * 64, "dataset": "d" * 64, "psnr": 31.5}
    assert made["aliases"] == ["e" * 12, "latest"]
    assert used["files"] == {}
    assert {name: Path(path).read_bytes() for name, path in made["files"].items()} == (FILES if asked else {})
    assert json.dumps(used).count("d" * 64) == 2


def test_the_same_digest_is_the_same_version(tmp_path: Path) -> None:
    """W&B finds a version by the digest of its manifest, which must not depend on who logs it."""
    digests = []
    for name in ("one", "two"):
        sink = WandbSink(RUN, replace(FIRST, id=name), tmp_path / name)
        sink.artifact(replace(NETWORK, read_files=lambda: FILES), "output")
        sink.artifact(replace(NETWORK, digest="f" * 64, read_files=lambda: FILES), "output")
        sink.close()
        digests.append([found["digest"] for found in artifacts(records(sink.folder))])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[0][1]
