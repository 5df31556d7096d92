from __future__ import annotations

import pytest

from medfuncta_dist.config.explain_key import WIDTH, explain
from medfuncta_dist.config.key_reference import sections
from medfuncta_dist.errors import RunFileError


def said(name: str) -> str:
    return "\n".join(explain(name)["said"])


def test_every_key_and_every_section_is_explained() -> None:
    for section in sections():
        assert not section.path or section.keys[0].name in said(section.path)
        for key in section.keys:
            path = f"{section.path}.{key.name}".lstrip(".")
            found = explain(path)
            assert found["keys"][0]["key"].startswith(path)
            assert max(map(len, found["said"])) <= WIDTH
            assert found["keys"][0]["meaning"]


def test_a_key_says_type_default_presets_and_whether_it_may_change() -> None:
    text = said("fit.steps")
    assert "integer" in text
    assert "in presets" in text
    assert "may change  no" in text
    assert "none: it must be given" in said("data.shape")


def test_the_last_part_of_a_path_finds_all_keys_of_that_name() -> None:
    keys = [facts["key"] for facts in explain("workers")["keys"]]
    assert {"cluster.workers", "kubernetes.gpu.workers"} <= set(keys)


def test_without_a_name_the_sections_are_listed() -> None:
    text = said("")
    assert all(section.path in text for section in sections() if "." not in section.path)


@pytest.mark.parametrize(("name", "near"), [("shpe", "data.shape"), ("fit.ste", "fit.steps"), ("clustr", "cluster")])
def test_a_name_that_is_nearly_right_is_corrected(name: str, near: str) -> None:
    with pytest.raises(RunFileError) as error:
        explain(name)
    assert near in error.value.do
