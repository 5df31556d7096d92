from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.parsing.typed_record import typed


@dataclass(frozen=True)
class Part:
    path: str
    size: int


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    counts: Mapping[str, int]
    marks: Sequence[str] = ()
    psnr: float = 0.0
    part: Part | None = None


WHOLE = Whole("a", (Part("b", 1), Part("c", 2)), {"x": 3}, [], 1.5, Part("d", 4))
BODY = asdict(WHOLE)


def test_what_was_a_dataclass_is_one_again() -> None:
    assert typed(Whole, BODY, "a record", "here") == WHOLE
    assert typed(Whole, {"name": "a", "parts": [], "counts": {}}, "a record", "here") == Whole("a", (), {})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": 3}, "name"),
        ({"name": None}, "name"),
        ({"parts": "b"}, "parts"),
        ({"parts": [{"path": "b", "size": "1"}]}, "parts.0.size"),
        ({"parts": [{"path": "b", "size": True}]}, "parts.0.size"),
        ({"parts": [{"path": "b"}]}, "parts.0.size"),
        ({"counts": [1]}, "counts"),
        ({"counts": {"x": 1.5}}, "counts.x"),
        ({"psnr": "high"}, "psnr"),
        ({"part": []}, "part"),
    ],
)
def test_a_field_of_another_type_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(IntegrityError, match=f"a record has no valid {field}") as caught:
        typed(Whole, BODY | changes, "a record", "here", "mend it")
    assert (caught.value.where, caught.value.do) == ("here", "mend it")


def test_a_missing_field_and_a_superfluous_one_are_named() -> None:
    with pytest.raises(IntegrityError, match="no valid counts"):
        typed(Whole, {name: value for name, value in BODY.items() if name != "counts"}, "a record", "here")
    with pytest.raises(IntegrityError, match="unknown field: 'more'"):
        typed(Whole, BODY | {"more": 1}, "a record", "here")


def test_what_is_no_json_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (float("nan"), "\ud800", deep):
        with pytest.raises(IntegrityError, match=r"is not JSON|no valid"):
            typed(Whole, BODY | {"name": value}, "a record", "here")
