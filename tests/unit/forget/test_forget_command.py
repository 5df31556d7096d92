"""The commands forget and lookup, from arguments to answer and exit code."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.cli import app as command_line
from medfuncta_dist.config.load import dump
from medfuncta_dist.forget import forget_command
from medfuncta_dist.scans.private.published_ids import new_id_list
from medfuncta_dist.task_map import map_here
from tests.unit.forget.archives import EACH, finished, keys_of, scans

PATIENT = "patient_003"


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command on a finished run; its answer, exit code and what it said on stderr."""
    monkeypatch.setattr(forget_command, "cpu_fan_out", lambda run: map_here)
    run = finished(tmp_path)
    (tmp_path / "run.yaml").write_text(dump(run))

    def call(name: str, *arguments: str) -> tuple[dict[str, Any], int, str]:
        capfd.readouterr()
        stdout = os.dup(1)
        with pytest.raises(SystemExit) as end:
            command_line.app([name, str(tmp_path / "run.yaml"), *arguments, "--json"])
        os.dup2(stdout, 1)  # a command sends it to stderr, and its process ends then
        os.close(stdout)
        said = capfd.readouterr()
        return json.loads(said.out), int(end.value.code or 0), said.err

    call.run = run  # type: ignore[attr-defined]
    return call


def test_a_patient_is_forgotten_only_with_yes(called: Any, tmp_path: Path) -> None:
    keys = keys_of(tmp_path, PATIENT)
    plan, code, _ = called("forget", "--patient", PATIENT, "--plan")
    assert (code, plan["scans"], plan["trained"]) == (0, EACH, ["small"])
    refused, code, said = called("forget", "--patient", PATIENT)
    assert (code, refused["error"]["do"]) == (2, "add --yes to do this; it cannot be undone")
    assert f"to forget: {EACH} scans" in said
    assert set(keys) <= scans(called.run).keys()
    done, code, said = called("forget", "--patient", PATIENT, "--yes")
    assert (code, done["forgotten"][0]["scans"], done["forgotten"][0]["proof"]["found"]) == (0, EACH, 0)
    lines = "\n".join(done["said"])
    for part in ("what it has learned of a scan stays in it", "backups", "None holds one of", done["said"][1][-9:]):
        assert part in lines
    for name in (PATIENT, *keys):
        assert name not in json.dumps(done) + said
    again, code, _ = called("forget", "--patient", PATIENT, "--yes")
    assert (code, again["forgotten"], len(again["said"])) == (0, [], 1)
    assert again["said"][0].startswith("forgotten already, on 20")
    by_key, code, _ = called("forget", keys[0], "--yes")
    assert (code, by_key["forgotten"]) == (0, [])


def test_publications_that_hold_the_scans_are_named_with_their_ids(called: Any, tmp_path: Path) -> None:
    keys = keys_of(tmp_path, PATIENT)
    with new_id_list(tmp_path / "private", called.run.dataset, "s3://bucket/published") as ids:
        ids.add(["7", "8", "9"], [keys[0], "0" * 64, keys[1]])
        ids.keep("a" * 16)
    plan, _, _ = called("forget", "--patient", PATIENT, "--plan")
    assert [one["ids"] for one in plan["published"]] == [["7", "9"]]
    done, code, _ = called("forget", "--patient", PATIENT, "--yes")
    assert (code, done["forgotten"][0]["published"]) == (0, plan["published"])
    for said in (plan["said"], done["said"]):
        [line] = [line for line in said if "publication" in line]
        assert "holds 2 of these scans: s3://bucket/published" in line
        assert line.endswith(": 7, 9")


def test_ids_come_from_standard_input(called: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("patient_001\n\npatient_002\n"))
    done, code, _ = called("forget", "--patient", "-", "--yes")
    assert (code, done["forgotten"][0]["scans"], done["forgotten"][0]["patients"]) == (0, 2 * EACH, 2)


@pytest.mark.parametrize(
    "arguments",
    [["--yes"], ["xyz", "--yes"], ["0" * 64, "--yes"], ["--patient", "nobody", "--yes"], ["--patient", " ", "--plan"]],
)
def test_what_names_nothing_is_refused_and_not_repeated(called: Any, arguments: list[str]) -> None:
    before = scans(called.run)
    answer, code, said = called("forget", *arguments)
    assert code == 2
    assert answer["error"]["do"]
    assert "nobody" not in json.dumps(answer) + said
    assert scans(called.run) == before


def test_lookup_goes_both_ways(called: Any, tmp_path: Path) -> None:
    rows, code, _ = called("lookup", f"{PATIENT}/scan-1")
    assert code == 0
    (row,) = rows["scans"]
    assert row["key"] in keys_of(tmp_path, PATIENT)
    assert called("lookup", row["key"][:10])[0]["scans"] == [row]
    assert called("lookup", "no such file")[1] == 2
