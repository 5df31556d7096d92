"""docs/reliability.md, whose numbers are written by the commands that measure them."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def put_between(mark: str, text: str) -> None:
    """Replace what stands between the page's marks of this name."""
    before, _, after = _parts(mark)
    PAGE.write_text(f"{before}\n\n{text}\n{after}")


def between(mark: str) -> str:
    """What was put between the marks."""
    return _parts(mark)[1].removeprefix("\n\n").removesuffix("\n")


def _parts(mark: str) -> tuple[str, str, str]:
    """The page up to its first mark of this name, between both, and from the second one on."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = PAGE.read_text().split(begin)
    inner, after = rest.split(end)
    return before + begin, inner, end + after
