"""``runs/<name>/report/probe.json``: what a probe found, as docs/formats.md describes it."""

from __future__ import annotations

from typing import Any

from medfuncta_dist.errors import FormatVersionError
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import parse_object

FORMAT_VERSION = 3
READ = (2, 3)
"""Version 2 chose by another rule and had no standard errors; all else is the same."""
LARGEST = 2**26
"""Bytes. Three sets of features with six classifiers of a hundred classes take a few."""


def record_path(run: str) -> str:
    """Relative to the storage root."""
    return f"runs/{run}/report/probe.json"


def read_probe(store: ObjectStore, run: str) -> dict[str, Any]:
    """What the run's last probe found.

    Raises:
        ObjectMissingError: the run was never probed.
        FormatVersionError: another version wrote it, such as 1, which had no intervals and no comparison.
        IntegrityError: it is not JSON.
    """
    path = record_path(run)
    found = parse_object(store.read(path, limit=LARGEST), "the probe's record", store.uri(path))
    if found.get("format_version") not in READ:
        known = " or ".join(map(str, READ))
        raise FormatVersionError(
            f"format_version {str(found.get('format_version'))[:20]} is not a probe of version {known}",
            where=store.uri(path),
            do="run probe again; it takes the latents that are there",
        )
    return found
