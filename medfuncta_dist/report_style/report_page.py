"""The page of every report: one HTML file that loads nothing, for a browser without a network, in light or dark.

It shows scans, and so is patient data. It holds no names of files or patients.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

PAGE, TABLES, STYLE = "report_page.html", "report_tables.html", "report_style.css"
PACKING = {
    "sources": "sources found",
    "sources_packed": "sources packed",
    "sources_quarantined": "sources quarantined",
    "scans": "scans found",
    "packed": "scans packed",
    "quarantined": "scans quarantined",
    "blank": "blank slices, left out",
    "instances": "files of DICOM series",
    "instances_packed": "files of DICOM series packed",
    "instances_quarantined": "files of DICOM series quarantined",
    "instances_left_out": "files of DICOM series left out",
}
"""The packing ledger's counts, in the order and words of the report."""
SHORT = 12  # digits of a key or digest: enough to find it again (decode takes any unique beginning)


def page(package: str, template: str, name: str, kind: str, **content: Any) -> str:
    """The report ``name`` (``kind``: report, data report) from a template of a package, which fills ``PAGE``."""
    style = Markup(_text(__package__, STYLE))  # ours, not a scan's
    return _template(package, template).render(style=style, name=name, kind=kind, **content)


def fragment(package: str, template: str, **content: Any) -> Markup:
    """A section of a page from a template of a package, to be given to ``page`` as content."""
    return Markup(_template(package, template).render(**content))  # the template has escaped what it shows


def _template(package: str, template: str) -> jinja2.Template:
    places = {PAGE: __package__, TABLES: __package__, template: package}
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda wanted: _text(places[wanted], wanted)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template)


def _text(package: str, file: str) -> str:
    return files(package).joinpath(file).read_text("utf-8")


def number(value: float | None, digits: int = 2) -> str:
    """A number for people: thousands apart, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if isinstance(value, float) else f"{value:,}"
