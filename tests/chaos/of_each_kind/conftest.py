"""The modules here run once for each kind of field, in a storage of its own."""

from __future__ import annotations

import pytest

from tests.kinds import KINDS


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of the field."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def storage(kind: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another for each kind: their runs have the same names."""
    return str(tmp_path_factory.mktemp(kind))
