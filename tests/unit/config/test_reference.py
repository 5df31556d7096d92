from __future__ import annotations

from pathlib import Path

from medfuncta_dist.config.reference import reference
from medfuncta_dist.config.run_file import RunFile

PAGE = Path(__file__).parents[3] / "docs" / "run-file.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == reference(), "python -m medfuncta_dist.config.reference > docs/run-file.md"


def test_every_key_is_explained():
    schema = RunFile.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    keys = [(name, key) for section in sections for name, key in section["properties"].items()]
    # A key that is a section is explained by the section.
    assert [name for name, key in keys if not key.get("description") and "$ref" not in key] == []
