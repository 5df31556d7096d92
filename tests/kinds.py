"""The kinds of field, for tests that hold for each: they take ``kind`` as a parameter."""

from __future__ import annotations

import pytest

KINDS = ("siren", "basis")
BY_KIND = pytest.mark.parametrize("kind", KINDS)
