from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.load import load
from medfuncta_dist.config.new_run_file import QUESTIONS, Answers, run_file_text, write_run_file
from medfuncta_dist.errors import RunFileError

GIVEN: dict[str, Any] = {"name": "ct-1", "source": "scans", "storage": "results", "shape": "32x32x16", "gpus": 0}


def answers(**changed: object) -> Answers:
    return Answers.complete(GIVEN | changed, None)


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("shape", ["187", "64x64", "32x32x32"])
@pytest.mark.parametrize("source", ["scans/**/*.dcm", "s3://my-archive/a b: # c/*.png", "no", "[x]", "~/it's"])
def test_what_is_written_is_a_run_file_with_the_answers(tmp_path: Path, gpus: int, shape: str, source: str) -> None:
    out = tmp_path / "run.yaml"
    write_run_file(str(out), answers(gpus=gpus, shape=shape, source=source))
    run = load(out)
    assert "x".join(map(str, run.data.shape)) == shape
    assert (run.name, run.data.source) == ("ct-1", source)
    assert run.storage.endswith("results")
    assert run.cluster.gpus_per_worker == bool(gpus)
    assert run.cluster.workers == (gpus or 1)


def test_every_key_has_a_comment() -> None:
    lines = run_file_text(answers()).splitlines()
    without = [line for before, line in pairwise(lines) if ":" in line and "#" not in before + line]
    assert without == ["data:", "cluster:", "  threads: 1"]


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "run.yaml"
    out.write_text("mine")
    with pytest.raises(RunFileError, match="not replaced"):
        write_run_file(str(out), answers())
    assert out.read_text() == "mine"


def test_questions_are_asked_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(question: str, default: str) -> str:
        asked.append(question)
        return default

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    found = Answers.complete({"name": "a"}, ask)
    assert asked == [question for name, (question, _) in QUESTIONS.items() if name != "name"]
    assert found.shape == (64, 64)


def test_where_nobody_can_be_asked_the_options_are_named() -> None:
    with pytest.raises(RunFileError) as error:
        Answers.complete({"name": "a", "shape": "64x64"}, None)
    assert error.value.do == "give --source ... --storage ..."


@pytest.mark.parametrize("wrong", [{"shape": "64by64"}, {"shape": "1x2x3x4"}, {"gpus": "many"}])
def test_wrong_answers_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(RunFileError):
        answers(**wrong)


def test_an_answer_that_no_run_file_may_have_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="name"):
        write_run_file(str(tmp_path / "run.yaml"), answers(name="No Name!"))
    assert not list(tmp_path.iterdir())


def test_answers_that_need_too_much_memory_say_what_to_answer_instead(tmp_path: Path) -> None:
    """Not to correct keys of a file that was not written."""
    out = tmp_path / "run.yaml"
    with pytest.raises(RunFileError, match="memory") as error:
        write_run_file(str(out), answers(shape="64x64x40"))
    assert error.value.where == "the answers"
    assert "--shape" in error.value.do
    assert not out.exists()
