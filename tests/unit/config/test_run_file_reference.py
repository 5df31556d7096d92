from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.run_file_reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "run-file.md"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == reference(), "python -m medfuncta_dist.config.run_file_reference > docs/run-file.md"


def test_every_key_is_explained():
    schema = RunFile.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    keys = [(name, key) for section in sections for name, key in section["properties"].items()]
    # A key that is a section is explained by the section.
    assert [name for name, key in keys if not key.get("description") and "$ref" not in key] == []


@pytest.mark.parametrize(
    ("section", "key", "may_change"),
    [
        ("Top level", "name", "new run"),
        ("`train`", "steps", "no"),
        ("`train`", "zero_stage", "yes"),
        ("`meta`", "chunk_points", "no, once settled"),
        ("`data.slabs`", "gap", "no"),
        ("`kubernetes.head`", "cpus", "yes"),
    ],
)
def test_the_page_says_whether_a_key_may_change_within_a_run(section: str, key: str, may_change: str):
    table = reference().split(f"\n## {section}\n")[1].split("\n## ")[0]
    [row] = [line for line in table.splitlines() if line.startswith(f"| `{key}` |")]
    assert f" | {may_change} | " in row
