"""WFDB records (PhysioNet): a header ``NAME.hea`` with its signal files, or with segments that are records themselves.

Values are physical, by gain and baseline of each lead; voltages in mV. Missing samples are not numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError, ScanError
from medfuncta_dist.scans.readers.reader import Found, check_inflation, check_size, refusing, silence_logger
from medfuncta_dist.scans.readers.signals.ecg_leads import chosen_leads, signal, to_millivolts
from medfuncta_dist.scans.readers.signals.signal_length import of_length
from medfuncta_dist.scans.readers.signals.wfdb_header import LARGEST_HEADER, NOT_WFDB, record_files
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.storage.scratch import scratch_folder

silence_logger("fsspec")
"""It opens the library's files, and logs their names."""

HEADER = ".hea"
DAMAGED = "the WFDB record is damaged, or of a format that is not read"
GAP = "a gap between WFDB segments without a layout segment, which says what the signals of a record with gaps are"
LEAST_BITS = 8
"""Of a sample that is not compressed."""


class WfdbReader:
    """The record of a header: one recording, with leads as channels."""

    name = "wfdb"
    suffixes: tuple[str, ...] = (HEADER,)

    def __init__(self, data: Data | None = None) -> None:
        """Without ``data``, all leads are read, at any length."""
        self.data = data

    def for_data(self, data: Data) -> WfdbReader:
        """The reader that follows a run file."""
        return WfdbReader(data)

    def parts(self, path: Path) -> list[str]:
        """The names of the files that ``path`` needs beside it, of those that can be known from what is there."""
        try:
            return list(_files(path, path.parent))
        except ScanError:
            return []  # ``scans`` says why

    def scans(self, path: Path) -> Iterator[Found]:
        """The recording, or its windows. ScanError where a file is missing or damaged."""
        if record_files(_bytes(path)).gap:
            raise ScanError(GAP)
        names = list(_files(path, path.parent))
        if any(not (path.parent / name).is_file() for name in names):
            raise ScanError("a file that the WFDB header names is missing")
        with scratch_folder("record") as folder:
            # The library opens names and URLs; here it finds this record's files, and nothing else.
            for name in names:
                Path(folder, name).symlink_to((path.parent / name).absolute())
            Path(folder, f"record{HEADER}").symlink_to(path.absolute())
            scan = _scan(Path(folder, "record"), self.data)
        yield from of_length(Found("", None, scan), self.data, otherwise="exact")


def _files(header: Path, folder: Path) -> Iterator[str]:
    """The names of all files of a record but its header; those of a segment's as soon as its header is there."""
    files = record_files(_bytes(header))
    yield from files.signals
    for segment in files.segments:
        yield f"{segment}{HEADER}"
        if (folder / f"{segment}{HEADER}").is_file():
            inner = record_files(_bytes(folder / f"{segment}{HEADER}"))
            if inner.segments:
                raise ScanError("a WFDB segment that has segments")
            yield from inner.signals


def _bytes(path: Path) -> bytes:
    with refusing(NOT_WFDB), path.open("rb") as file:
        data = file.read(LARGEST_HEADER + 1)
    if len(data) > LARGEST_HEADER:
        raise ScanError("a WFDB header that is too long")
    return data


def _scan(record: Path, data: Data | None) -> Scan:
    wfdb = _library()
    with refusing(NOT_WFDB):
        header = wfdb.rdheader(str(record), rd_segments=True)
        described = header.segments[0] if hasattr(header, "segments") else header
        names = [str(name or "") for name in described.sig_name or []]
        _check(header, len(names), record.parent)
    if not names:
        raise ScanError("a WFDB record without signals")
    wanted = chosen_leads(names, data)
    with refusing(DAMAGED):
        leads, units, rate = _leads(wfdb, record, wanted, segmented=described is not header)
        return signal([lead * to_millivolts(unit) for lead, unit in zip(leads, units, strict=True)], rate)


def _check(header: Any, leads: int, folder: Path) -> None:
    """Refuse what is larger than its files can hold, before it is read."""
    stored = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != HEADER)
    if header.sig_len:
        gaps = hasattr(header, "segments")  # of a segmented record, only what is in files is stored
        values = check_size((leads or 1, int(header.sig_len)))
        check_inflation(values * LEAST_BITS // 8, stored if not gaps else max(stored, values))


def _leads(
    wfdb: Any, record: Path, wanted: Sequence[int], segmented: bool
) -> tuple[list[np.ndarray], list[str], float]:
    """Physical values of each lead, their units, and the sampling rate in Hz."""
    if segmented:
        found = wfdb.rdrecord(str(record), channels=list(wanted), smooth_frames=False)
        values = found.e_p_signal
    else:
        found = wfdb.rdrecord(str(record), channels=list(wanted), physical=False, smooth_frames=False)
        _require_checksums(found)
        values = found.dac(expanded=True)
    rates = {int(n) for n in found.samps_per_frame or [1]}
    if len(rates) != 1:
        raise ScanError("leads of different sampling rates: data.leads chooses those of one rate")
    return [np.asarray(lead) for lead in values], [str(unit or "") for unit in found.units], found.fs * rates.pop()


def _require_checksums(record: Any) -> None:
    """Of each lead, the header has the sum of its samples modulo 65536."""
    if record.checksum is None or any(record.skew or ()):
        return
    for known, sum_of_samples in zip(record.checksum, record.calc_checksum(expanded=True), strict=True):
        if known is not None and (int(known) - int(sum_of_samples)) % 65536:
            raise ScanError("the samples of a WFDB record do not match the checksum in its header")


def _library() -> Any:
    """Imported late: it imports pandas. With it what it opens files by, whose logger would otherwise only come to be,
    and log, while a file is read."""
    try:
        import_module("fsspec.implementations.local")
        import wfdb
    except ImportError:
        raise RunFileError(
            "reading WFDB records needs a package that is not installed",
            where="data.reader: wfdb",
            do="pip install 'medfuncta-dist[ecg]', on every node",
        ) from None
    return wfdb
