"""Each test of a fault leaves a line of what came of it, where MEDFUNCTA_CHAOS_RESULTS names a file for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.integration.training_runs import packed

MEASURED = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A fault that no row tells of is a mistake."""
    for item in items:
        for mark in item.iter_markers("fault"):
            if mark.args[0] not in FAULTS:
                raise pytest.UsageError(f"{item.nodeid}: there is no fault {mark.args[0]!r} in tests/chaos/faults.py")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with what was seen, in a few words: numbers, mostly. A test of each kind of field says which."""
    seen: list[str] = request.node.stash.setdefault(MEASURED, [])
    parameters = getattr(request.node, "callspec", None)
    of_basis = parameters is not None and "basis" in parameters.params.values()
    return lambda words: seen.append(f"basis field: {words}" if of_basis else words)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A local folder: what happens in it is seen at once. A module may have another."""
    return str(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def snapshot(storage: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Scans packed there."""
    return packed(storage, tmp_path_factory.mktemp("scans"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """One JSON line a test and fault."""
    report: pytest.TestReport = yield
    path = os.environ.get("MEDFUNCTA_CHAOS_RESULTS")
    if path and (report.when == "call" or (report.when == "setup" and not report.passed)):
        for mark in item.iter_markers("fault"):
            line = {
                "fault": mark.args[0],
                "test": item.nodeid,
                "outcome": report.outcome,
                "seconds": round(report.duration, 1),
                "measured": item.stash.get(MEASURED, []),
            }
            with Path(path).open("a") as file:
                file.write(json.dumps(line) + "\n")
    return report  # type: ignore[return-value]  # a wrapper's result, which the annotation of a generator cannot say
