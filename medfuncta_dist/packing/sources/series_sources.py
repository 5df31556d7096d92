"""From files to sources: the single-image DICOM files of one series are one source, by what their headers say.

It is identified by patient, study and series, and its state is made of its files' contents. So neither the names nor
the order of its files matter, and a series with a file more is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.archive.inventory import Row
from medfuncta_dist.archive.series_sums import in_series
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.sources.pack_source import Member, PackSource
from medfuncta_dist.scans.scan_key import KeyMaker

COLUMNS = ["relative", "reader", "patient", "study", "series", "instance", "rows", "columns", "frames"]
TOLD = ("path", "table")
"""Ways in which the run file tells whose a source is (``patient_group.WAYS``)."""


@dataclass(frozen=True)
class _File:
    source: PackSource
    member: Member
    state: SourceState


@dataclass
class SeriesSources:
    """Collects the files of series, in any order."""

    data: Data
    keys: KeyMaker = field(repr=False)
    _found: dict[str, list[_File]] = field(default_factory=dict, repr=False)
    _places: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    """By relative path: series and name of the file."""
    _made: dict[str, PackSource] = field(default_factory=dict, repr=False)
    """By identity, where nothing has come after it was made."""

    def take(self, source: PackSource, row: Row, state: SourceState) -> bool:
        """Whether the file belongs to a series; then it is taken over."""
        if not isinstance(self.data.series, Series) or not in_series(row):
            return False
        name = self.keys.property_key("instance", row["instance"])
        member = Member(source.uri, name, source.size, state.content, source.labels, source.place)
        identity = series_identity(row)
        self._found.setdefault(identity, []).append(_File(source, member, state))
        self._places[source.relative] = identity, name
        self._made.pop(identity, None)
        return True

    def key_of(self, row: Row) -> str | None:
        """The key of the series to which a row of an earlier inventory belongs; None for another file."""
        if not isinstance(self.data.series, Series) or not in_series(row):
            return None
        return self.keys.source_key(series_identity(row))

    def holds(self, row: Row) -> bool:
        """Whether a file of an earlier inventory is still where it was, as the same one of its series."""
        now = self._places.get(row["relative"])
        return now == (series_identity(row), self.keys.property_key("instance", row["instance"]))

    def sources(self) -> list[PackSource]:
        """The series so far. RunFileError where the run file assigns the files of one to several patients or splits."""
        apart = sum(len({_told(file.source) for file in files}) > 1 for files in self._found.values())
        if apart:
            raise RunFileError(
                f"{apart} DICOM series have files that the run file assigns to different splits or patients",
                where="data.splits or data.group",
                do="assign whole series, or set data.series to file to pack each file by itself",
            )
        for identity in self._found.keys() - self._made.keys():
            self._made[identity] = self._source(identity, self._found[identity])
        return [self._made[identity] for identity in sorted(self._made)]

    def without_content(self, keys: Collection[str]) -> set[str]:
        """Relative paths of the files whose content is unknown, of the series with these keys."""
        wanted = (source.relative for source in self.sources() if source.key in keys)
        return {f.source.relative for identity in wanted for f in self._found[identity] if not f.state.content}

    def doubles(self) -> set[str]:
        """Relative paths of the files whose content is unknown, and that have the identifier of another in the series:
        they may be copies."""
        found = set()
        for files in self._found.values():
            names = Counter(file.member.name for file in files)
            found |= {f.source.relative for f in files if names[f.member.name] > 1 and not f.state.content}
        return found

    def learn(self, contents: Mapping[str, str]) -> None:
        """Take over what is now known of contents (keys), by relative path."""
        for identity, files in self._found.items() if contents else ():
            for index, file in enumerate(files):
                if content := contents.get(file.source.relative):
                    state = replace(file.state, content=content)
                    files[index] = _File(file.source, replace(file.member, content=content), state)
                    self._made.pop(identity, None)

    def _source(self, identity: str, files: Sequence[_File]) -> PackSource:
        files = sorted(files, key=lambda file: (file.member.name, file.state.content, file.source.relative))
        apart = _without_copies(files)
        group = {file.source.group for file in files}
        labels = {file.member.labels for file in files}
        return PackSource(
            self.keys.source_key(identity),
            files[0].source.uri,
            identity,
            files[0].source.split,
            group=group.pop() if len(group) == 1 else None,
            labels=labels.pop() if len(labels) == 1 else None,
            unlisted=any(file.source.unlisted for file in files),
            size=sum(file.source.size for file in files),
            state=_state([file.state for file in apart], self.keys),
            members=tuple(file.member for file in apart),
            copies=len(files) - len(apart),
        )


def joint_content(contents: Iterable[str], keys: KeyMaker) -> str:
    """The content of a series from those of its files, in any order; unknown where one of them is."""
    found = sorted(set(contents))
    return keys.property_key("series content", *found) if found and all(found) else ""


def series_identity(row: Row) -> str:
    """In place of a path. No path has a zero in it."""
    return "\0".join(("", row["patient"] or "", row["study"] or "", row["series"]))


def packed_key(row: Row, data: Data, keys: KeyMaker) -> str:
    """The key of the source that a row of the inventory (``COLUMNS`` and ``identity``) was packed in."""
    whole = isinstance(data.series, Series) and in_series(row)
    return keys.source_key(series_identity(row) if whole else row["identity"])


def names_patient(source: PackSource) -> bool:
    """Whether the files of a series name a patient."""
    return source.relative.split("\0")[1] != ""


def _told(source: PackSource) -> tuple[str | None, str]:
    """The split and the patient that the run file gives."""
    return source.split, source.group.key if source.group is not None and source.group.by in TOLD else ""


def told(source: PackSource) -> bool:
    """Whether the run file assigns a split or a patient."""
    return _told(source) != (None, "")


def _without_copies(files: Sequence[_File]) -> list[_File]:
    """Of files with one identifier and the same bytes, the first. ``files`` are sorted by both."""
    apart: list[_File] = []
    for file in files:
        same = apart and apart[-1].member.name == file.member.name and apart[-1].state.content == file.state.content
        if not (same and file.state.content):
            apart.append(file)
    return apart


def _state(states: Sequence[SourceState], keys: KeyMaker) -> SourceState:
    def joint(name: str) -> str:
        values = sorted(getattr(state, name) for state in states)
        return keys.property_key(f"series {name}", *values) if all(values) else ""

    content = joint_content((state.content for state in states), keys)
    return SourceState(joint("size"), joint("version"), joint("probe"), content)
