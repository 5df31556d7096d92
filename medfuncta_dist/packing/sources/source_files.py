"""The files of a source as local ones. What lies inside a zip or tar file is copied out of it while it is read.

Of a zip and of a plain tar, a source's files are read where they lie. A compressed tar is decompressed once per task,
from its beginning to the last file that the task needs, and these files stay on the local disk until the task ends:
``pack_plan`` makes tasks that need at most 1 GiB of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medfuncta_dist.errors import ScanError
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.storage.archive_files.member_bytes import copy_member
from medfuncta_dist.storage.archive_files.place import CHANGED, Place
from medfuncta_dist.storage.archive_files.tar_members import Read, tar_entries
from medfuncta_dist.storage.scratch import scratch_folder
from medfuncta_dist.storage.source_ranges import fetch_from
from medfuncta_dist.storage.sources import Parts, fetch_threads, local_copies, local_copy, no_parts, suffix

PIECE = 2**20

Spot = tuple[str, int]
"""A file inside a compressed tar: its URI, and the offset in what it becomes."""


@dataclass
class Windows:
    """Files of compressed tars on the local disk, in ``folder``; ``broken``: why those of a tar are not all there."""

    folder: Path
    paths: dict[Spot, Path] = field(default_factory=dict, repr=False)
    broken: dict[str, str] = field(default_factory=dict, repr=False)

    def path(self, place: Place) -> Path:
        """The file; ScanError where it was not found."""
        if (path := self.paths.get((place.archive, place.offset))) is None:
            raise ScanError(self.broken.get(place.archive, CHANGED))
        return path


@contextmanager
def windows_on(sources: Sequence[PackSource]) -> Iterator[Windows]:
    """The files of compressed tars that these sources need. StorageError where storage fails."""
    wanted: dict[str, dict[int, Place]] = {}
    for source in sources:
        beside = [source.mask.place] if source.mask and source.mask.place else []
        for place in source.places + beside:
            if place.solid:
                wanted.setdefault(place.archive, {})[place.offset] = place
    with scratch_folder("window") as folder:
        windows = Windows(Path(folder))
        for archive, places in wanted.items():
            try:
                _extract(archive, places, windows)
            except ScanError as error:
                windows.broken[archive] = error.what
        yield windows


def _extract(archive: str, places: dict[int, Place], windows: Windows) -> None:
    """Files of one tar. Each must have the header that was listed: others may have come to its place since."""
    left = dict(places)
    one = next(iter(places.values()))
    for entry, read in tar_entries(fetch_from(archive), one.archive_size, archive, one.kind):
        place = left.pop(entry.place.offset, None) if entry.place is not None else None
        if place is not None:
            if entry.place != place:
                raise ScanError(CHANGED)
            path = windows.folder / f"{len(windows.paths):06d}{suffix(entry.name)}"
            _write(path, read)
            windows.paths[archive, place.offset] = path
        if not left:
            return


def _write(path: Path, read: Read) -> None:
    with path.open("wb") as file:
        while piece := read(PIECE):
            file.write(piece)


@contextmanager
def local_files(
    source: PackSource, windows: Windows | None = None, parts: Parts = no_parts
) -> Iterator[tuple[list[Path], str]]:
    """The files of a source as local ones, in order; and why a source that is one file cannot be read, "" if it can.
    A file of a series that cannot be read is missing: the rest of the series may still be told of it. ``parts``: the
    files that belong to a source that lies loose; they come with it."""
    if source.refused:
        yield [Path()], source.refused
        return
    if not source.places:
        with _loose(source, parts) as paths:
            yield paths, ""
        return
    with ExitStack() as stack:
        if source.place is not None and source.place.solid:
            windows = windows or stack.enter_context(windows_on([source]))
        folder = Path(stack.enter_context(scratch_folder("source")))
        if source.members:
            yield _series(source, folder, windows or stack.enter_context(windows_on([source])), stack), ""
        else:
            yield _single(source, folder, windows)


@contextmanager
def _loose(source: PackSource, parts: Parts) -> Iterator[list[Path]]:
    if source.members:
        with local_copies([(member.uri, member.size) for member in source.members]) as paths:
            yield paths
    else:
        with local_copy(source.uri, parts) as path:
            yield [path]


def _single(source: PackSource, folder: Path, windows: Windows | None) -> tuple[list[Path], str]:
    assert source.place is not None
    own = suffix(source.uri.rpartition("/")[2])
    path = folder / f"source{own}"
    try:
        if not source.inside:
            return [_placed(source.place, path, windows)], ""
        # Whatever their names are on the local disk, the files of a pair must differ by their suffix alone.
        for ending, place in ((own, source.place), *source.inside):
            here = folder / f"source{ending}"
            if (found := _placed(place, here, windows)) != here:
                here.symlink_to(found)
        return [path], ""
    except ScanError as error:
        return [path], error.what


def _series(source: PackSource, folder: Path, windows: Windows, stack: ExitStack) -> list[Path]:
    """Several files are fetched at once: most of the time is waiting."""
    loose = [(member.uri, member.size) for member in source.members if member.place is None]
    copies = iter(stack.enter_context(local_copies(loose)))

    def copied(number: int, place: Place) -> Path:
        path = folder / f"{number:06d}"
        try:
            return _placed(place, path, windows)
        except ScanError:
            path.unlink(missing_ok=True)
            return path

    places = [(number, member.place) for number, member in enumerate(source.members) if member.place is not None]
    inside = iter(list(fetch_threads(os.getpid()).map(lambda one: copied(*one), places)))
    return [next(copies if member.place is None else inside) for member in source.members]


def _placed(place: Place, path: Path, windows: Windows | None) -> Path:
    if place.solid:
        assert windows is not None
        return windows.path(place)
    copy_member(place, path)
    return path
