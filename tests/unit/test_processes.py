"""How the tests are shared out among processes: what needs the session's Ray cluster says so where it can be seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import pytest_collection_modifyitems
from tests.processes import scope_of

USES = ["def test_a(ray_cluster): ...", "@pytest.mark.usefixtures('ray_cluster')\ndef test_a(): ..."]
MENTIONS = ["# not the ray_cluster", '"""Without the ray_cluster fixture."""', "no_ray_cluster = 1"]


@pytest.mark.parametrize("text", USES)
def test_a_file_that_asks_for_the_cluster_goes_to_its_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "test_a.py").write_text(text)
    assert scope_of(tmp_path / "test_a.py") == "ray"


@pytest.mark.parametrize("text", MENTIONS)
def test_a_file_that_only_mentions_it_does_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "test_a.py").write_text(text)
    assert scope_of(tmp_path / "test_a.py") == str(tmp_path / "test_a.py")


@pytest.mark.parametrize("processes", [1, 2])
def test_one_that_gets_it_unseen_is_refused_in_one_process_too(tmp_path: Path, processes: int) -> None:
    (tmp_path / "test_a.py").write_text("def test_a(cluster_of_two): ...")
    hook = SimpleNamespace(pytest_deselected=lambda items: None)
    config: Any = SimpleNamespace(hook=hook, **({"workerinput": {}} if processes > 1 else {}))
    item: Any = SimpleNamespace(path=tmp_path / "test_a.py", get_closest_marker=lambda name: None, fixturenames=())
    pytest_collection_modifyitems(config, [item])
    item.fixturenames = ("cluster_of_two", "ray_cluster")
    with pytest.raises(pytest.UsageError, match="must name ray_cluster"):
        pytest_collection_modifyitems(config, [item])
