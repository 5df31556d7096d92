"""What has happened to the archive's sources since they were packed: pure, from what is known of each source's bytes.

A source is compared by size and version (time of its last change, or ETag); where these differ, by its content. So a
file that was only touched is the same, and one that keeps its size is not taken for the same. Renamed and copied
sources are recognised by content alone: of equal contents, one source is packed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SourceState:
    """What is known of a source's bytes, each as a key (``KeyMaker.property_key``); "" is unknown.

    ``probe`` is equal where contents are equal, and of the same kind of storage; it costs little to read.
    """

    size: str = ""
    version: str = ""
    probe: str = ""
    content: str = ""


@dataclass(frozen=True)
class Changes:
    """Every present source (by key) is in exactly one of the first five, in the order in which they were given; or it
    is only counted."""

    new: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Other bytes than those that were packed: to be read again."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Present source → the source that was packed with these bytes, and is no longer there."""
    copied: Mapping[str, str] = field(default_factory=dict)
    """Present source → the source, present too, that has the same bytes."""
    removed: tuple[str, ...] = ()
    """Packed sources that are not there, under no name."""
    uncompared: int = 0
    """Of ``same``: sources of which nothing is known but that they were packed."""
    plain_new: int = 0
    plain_same: int = 0
    """Sources of which nothing more is to be told."""

    @property
    def counts(self) -> dict[str, int]:
        """How many sources are in each."""
        names = ("new", "same", "changed", "renamed", "copied", "removed")
        plain = {"new": self.plain_new, "same": self.plain_same}
        return {name: len(getattr(self, name)) + plain.get(name, 0) for name in names}


def compare(packed: Mapping[str, SourceState], present: Mapping[str, SourceState]) -> Changes:
    """``packed``: the sources of the data set when they were read; ``present``: those of the archive."""
    same = {key for key, state in present.items() if key in packed and not differs(packed[key], state)}
    # Only these contents can have a copy that matters: of an unchanged archive, none is kept.
    contents = {state.content for key, state in present.items() if key not in same}
    holders = _Holders()
    for key in present if contents else ():
        if key in same and (content := present[key].content or packed[key].content) in contents:
            holders.add(content, key)
    gone = _Holders()
    for key in packed:
        if key not in present:
            gone.add(packed[key].content, key)
    found = _sorted_out((key for key in present if key not in same), packed, present, holders, gone)
    kept = set(found.renamed.values())
    return Changes(
        found.new,
        tuple(key for key in present if key in same),
        found.changed,
        found.renamed,
        found.copied,
        tuple(key for key in packed if key not in present and key not in kept),
        sum(packed[key] == SourceState() for key in same),
    )


class _Holders:
    """Which source holds a content: the first that claimed it."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def add(self, content: str, key: str) -> None:
        if content:
            self._keys.setdefault(content, key)

    def of(self, content: str) -> str | None:
        return self._keys.get(content) if content else None

    def take(self, content: str) -> str | None:
        return self._keys.pop(content, None) if content else None


def _sorted_out(
    keys: Iterable[str],
    packed: Mapping[str, SourceState],
    present: Mapping[str, SourceState],
    holders: _Holders,
    gone: _Holders,
) -> Changes:
    new, changed = [], []
    renamed: dict[str, str] = {}
    copied: dict[str, str] = {}
    for key in keys:
        content = present[key].content
        if (holder := holders.of(content)) is not None:
            copied[key] = holder
            continue
        if key in packed:
            changed.append(key)
        elif (former := gone.take(content)) is not None:
            renamed[key] = former
        else:
            new.append(key)
        holders.add(content, key)
    return Changes(tuple(new), (), tuple(changed), renamed, copied)


def differs(packed: SourceState, present: SourceState) -> bool:
    """Whether the bytes are others; where nothing is known of the packed ones, they are not."""
    if packed == SourceState() or (packed.size, packed.version) == (present.size, present.version):
        return False
    return not packed.content or packed.content != present.content
