"""The documentation as a site: it builds, strict and without a network, and what is generated or names code is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from runpy import run_path

import pytest

from tests.unit.docs.pages import DOCS, ROOT

PACKAGE = ROOT / "medfuncta_dist"
MAP = (DOCS / "understand" / "architecture.md").read_text(encoding="utf-8")
LINKED = ("cluster", "docs", "jobs", "k8s")
"""Links to folders at the top, which are no rooms."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    unreachable = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | unreachable | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a browser loads with a page, not those that a reader may follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        loads = given.get("src") or (given.get("href") if tag == "link" and given.get("rel") != "canonical" else None)
        self.found += [loads] if loads else []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        for address in Loaded(page.read_text(encoding="utf-8")).found:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_formulas_are_drawn_without_a_script(site: Path) -> None:
    method = (site / "method.html").read_text(encoding="utf-8")
    assert method.count("<math ") > 80
    assert "arithmatex" not in method
    assert (site / "assets" / "STIXTwoMath-Regular.ttf").exists()


def test_files_from_outside_docs_have_pages_that_link_to_each_other(site: Path) -> None:
    contributing = (site / "CONTRIBUTING.html").read_text(encoding="utf-8")
    assert 'href="understand/architecture.html"' in contributing
    assert 'href="CONTRIBUTING.html"' in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tool", "written", "function"),
    [("cli_page.py", "reference/cli.md", "page"), ("layers_picture.py", "understand/layers.svg", "picture")],
)
def test_a_generated_file_is_what_the_code_says(tool: str, written: str, function: str) -> None:
    made = run_path(str(DOCS / "tools" / tool))[function]()
    assert (DOCS / written).read_text(encoding="utf-8") == made, f"python docs/tools/{tool} > docs/{written}"


def test_every_room_has_one_line() -> None:
    rooms = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    rooms = {room for room in rooms if room.split("/")[0] not in (".", *LINKED)}
    table = MAP.split("## The rooms")[1].split("\n## ")[0]
    assert Counter(re.findall(r"^\| `([\w/]+)/` \|", table, re.MULTILINE)) == Counter(rooms)


def test_every_file_of_the_two_walks_is_there() -> None:
    walks = MAP.split("## One training step")[1]
    named = re.findall(r"`([\w/]+\.py)`", walks)
    assert len(set(named)) > 25
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def test_files_that_contributing_names_are_there() -> None:
    named = re.findall(r"`([\w/-]+\.(?:py|md))`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    inside = [name for name in named if "/" in name]
    missing = [name for name in inside if not (ROOT / name).exists() and not (PACKAGE / name).exists()]
    assert inside
    assert missing == []


def test_a_record_of_a_decision_is_dated() -> None:
    for page in sorted((DOCS / "decisions").glob("*.md")):
        for record in page.read_text(encoding="utf-8").split("\n## ")[1:]:
            title, _, text = record.partition("\n\n")
            assert re.match(r"\*20\d\d-\d\d-\d\d\.\* ", text), f"{page.name}: {title}"
