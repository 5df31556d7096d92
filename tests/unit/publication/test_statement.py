from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.publication.statement import LARGEST, statement_of

NOTHING: dict[str, str | None] = {"licence": None, "intended_use": None}
WHOLE = "licence: cc-by-nc-4.0\nintended_use: Teaching.\ntitle: Chest X-rays\nlimits: |\n  One hospital.\n"


def written(folder: Path, text: str) -> Path:
    (folder / "statement.yaml").write_text(text)
    return folder / "statement.yaml"


def test_options_are_enough_and_come_before_the_file(tmp_path: Path) -> None:
    given = statement_of(None, {"licence": "cc-by-4.0", "intended_use": "Research."})
    assert (given.licence, given.intended_use, given.title) == ("cc-by-4.0", "Research.", "Latents of medical scans")
    both = statement_of(written(tmp_path, WHOLE), {"licence": "cc0-1.0", "intended_use": None})
    assert (both.licence, both.intended_use, both.limits) == ("cc0-1.0", "Teaching.", "One hospital.\n")


@pytest.mark.parametrize("missing", ["licence", "intended_use"])
def test_what_only_the_owner_can_say_must_be_said(missing: str) -> None:
    given = {"licence": "cc-by-4.0", "intended_use": "Research."} | {missing: None}
    with pytest.raises(RunFileError, match=f"has not said: {missing}") as refused:
        statement_of(None, given)
    assert "--intended-use" in refused.value.do
    with pytest.raises(RunFileError, match="licence and intended_use"):
        statement_of(None, NOTHING)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (WHOLE + "license: mit\n", "license: Extra inputs"),
        (WHOLE.replace("cc-by-nc-4.0", "Creative Commons"), "expected an identifier"),
        (WHOLE.replace("cc-by-nc-4.0", "other"), "licence_link is missing"),
        (WHOLE.replace("Chest X-rays", '"a\\nb"'), "one line"),
        (WHOLE.replace("Teaching.", "[1]"), "intended_use"),
        ("- licence\n", "no YAML mapping"),
        ("licence: [", "cannot be read: ParserError"),
        ("a: " + "b" * LARGEST, "no YAML mapping of at most 64 KiB"),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(RunFileError, match=what):
        statement_of(written(tmp_path, text), NOTHING)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="cannot be read: FileNotFoundError"):
        statement_of(tmp_path / "none.yaml", NOTHING)
