"""What a run file leaves open, as its run has settled it. Apart from what settles it, which imports torch."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.section import Section


def as_begun(run: RunFile, frozen: RunFile | None) -> RunFile:
    """The run file with what it leaves open filled in as this run settled it, where it has."""
    found = {} if frozen is None else frozen.parts(lambda key: key.settled)
    filled = {name: _filled(getattr(run, name), values) for name, values in found.items()}
    changed = {name: section for name, section in filled.items() if section is not getattr(run, name)}
    return run.model_copy(update=changed) if changed else run


def _filled(section: Section, found: dict[str, Any]) -> Section:
    settled = {name: value for name, value in found.items() if getattr(section, name) is None and value is not None}
    return section.model_copy(update=settled) if settled else section
