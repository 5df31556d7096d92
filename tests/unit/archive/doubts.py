"""Which sources' contents must be read, asked of dictionaries: what ``packing/present_sources.py`` answers on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from medfuncta_dist.archive.changes import SourceState, differs


def doubtful(
    packed: Mapping[str, SourceState], present: Mapping[str, SourceState], by_etag: Collection[str] = ()
) -> list[str]:
    """The present sources (keys) whose content must be read for ``compare``; it is unknown so far.

    by_etag: present sources whose probe is an ETag. Another one does not prove other bytes: an object may have been
    uploaded in other parts, or have been a local file.
    """
    fresh = [key for key, state in present.items() if key not in packed or differs(packed[key], state)]
    probes = {present[key].probe for key in fresh} - {""}
    gone = {state.probe for key, state in packed.items() if key not in present}
    here = Counter(state.probe for state in present.values() if state.probe in probes)
    shared = probes & {*gone, *(probe for probe, n in here.items() if n > 1)}
    return [
        key
        for key, state in present.items()
        if not state.content and (state.probe in shared or is_open(packed.get(key), state, key in by_etag))
    ]


def not_comparable(
    packed: Mapping[str, SourceState], present: Mapping[str, SourceState], kinds: Mapping[str, str]
) -> list[str]:
    """The present sources (keys) whose content must be read because they may be copies of others that have a probe of
    another kind: their size tells that they may.

    kinds: by key, of the sources whose probe only some others have: an ETag, a checksum of a zip.
    """
    found: dict[str, set[str]] = {}
    fresh = set()
    for key, kind in kinds.items():
        size = present[key].size
        found.setdefault(size, set()).add(kind)
        if key not in packed or differs(packed[key], present[key]):
            fresh.add(size)
    several = {size for size, of_size in found.items() if len(of_size) > 1} & fresh
    return [key for key in kinds if not present[key].content and present[key].size in several]


def is_open(packed: SourceState | None, present: SourceState, by_etag: bool) -> bool:
    """Whether only its content tells if a packed source has changed."""
    if packed is None or not differs(packed, present) or not packed.content:
        return False
    return packed.size == present.size and (by_etag or not packed.probe or packed.probe == present.probe)
