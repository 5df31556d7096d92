"""What `make docs` does beyond mkdocs: pages from outside docs/, links between them, and formulas as MathML.

The same Markdown is read in the repository and on the site. So links are written as they work in the repository; here,
links to files that are no pages of the site become plain text.
"""

from __future__ import annotations

import html
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
log = get_plugin_logger("site")

MIRRORED = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benchmarks/*.md",
    "benchmarks/results/*.md",
    "benchmarks/results/*.png",
    "cluster/README.md",
    "k8s/README.md",
    "jobs/*.yaml",
)
"""Files outside docs/ that the site has, under their own paths."""
FONT = Path(find_spec("ziamath").submodule_search_locations[0]) / "fonts" / "STIXTwoMath-Regular.ttf"
"""A font for formulas, which the wheel of ziamath carries. Found, not imported: nothing else of it is used."""
PAGES_OF = {"README.md": "docs/index.md"}
"""What stands on the site for a file that it does not have."""

FENCE = re.compile(r"(^```.*?^```[ \t]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)]*)?\)")
IN_TABLE = re.compile(r"(?<=<td>)<code>[^<]*</code>")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the files from outside docs/, and a font for formulas: many machines have none that is made for them."""
    for pattern in MIRRORED:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, f"assets/{FONT.name}", abs_src_path=str(FONT)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to where their targets are on the site."""
    known = {file.src_uri for file in files}
    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else rewritten(part, page.file.src_uri, known) for part in parts)


def rewritten(text: str, page: str, known: set[str]) -> str:
    """Text outside of code, with every link as the site needs it."""
    here = place_of(page)

    def replace(link: re.Match[str]) -> str:
        target = link["target"]
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if not (ROOT / wanted).exists():
            log.warning("%s links to %s, which does not exist", here, wanted)
        found = name_on_site(wanted, known)
        if found is None:
            return link["text"]
        relative = posixpath.relpath(found, posixpath.dirname(page) or ".")
        return f"[{link['text']}]({relative}{link['anchor'] or ''})"

    return LINK.sub(replace, text)


def place_of(page: str) -> str:
    """Where a page of the site lies in the repository."""
    inside = f"docs/{page}"
    return inside if (ROOT / inside).exists() else page


def name_on_site(path: str, known: set[str]) -> str | None:
    """The site's name for a file of the repository; None for one that the site does not have."""
    path = PAGES_OF.get(path, path)
    inside = path.removeprefix("docs/") if path.startswith("docs/") else path
    choices = (inside, f"{inside}/README.md")
    return next((choice for choice in choices if choice in known), None)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves: no script, and nothing to fetch. Paths in tables may break
    after a slash, or their column would fill a phone."""
    content = IN_TABLE.sub(lambda code: code[0].replace("/", "/<wbr>").replace("</<wbr>", "</"), content)
    return FORMULA.sub(_as_mathml, content)


def _as_mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    mathml = convert(html.unescape(found[2]), display=display)
    # The bars of a norm are not a pair for the converter: one alone would stretch to the height of its whole row.
    return mathml.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
