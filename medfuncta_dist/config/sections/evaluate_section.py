"""The section ``evaluate`` of the run file: the report."""

from __future__ import annotations

from typing import Annotated, ClassVar

from medfuncta_dist.config.keys import Added, Meaning, WithinRun
from medfuncta_dist.config.section import NaturalInt, Section, Split


class Evaluate(Section):
    """The report."""

    MEANING: ClassVar = Meaning(WithinRun.FREE)

    split: Split = "test"
    """The split that pictures and headline numbers come from."""
    pictures: NaturalInt = 6
    """Scans shown in the report. With 0, its map has no thumbnails either."""
    umap: Annotated[bool, Added(False)] = False
    """Whether the map of latents also has a UMAP (extra `map`), beside PCA."""
    note: str | None = None
    """A remark shown at the top of the report, for example about the origin of the scans."""
