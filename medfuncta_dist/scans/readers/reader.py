"""The interface of readers, and what they share: errors in fixed words, and limits checked before allocation.

A library's message or warning can quote the file (a patient's name in a damaged header), so none may leave a reader.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from medfuncta_dist.errors import MedfunctaError, ScanError
from medfuncta_dist.scans.scan import MAX_VALUES, Scan
from medfuncta_dist.storage.request_failures import explain, is_machine_failure
from medfuncta_dist.storage.sources import ANONYMOUS_SOURCE

FREE_BYTES = 2**28
LARGEST_RATIO = 100
"""A file may decompress to FREE_BYTES at any ratio, and beyond that to LARGEST_RATIO times its size. Scans compress
to a half or a tenth; deflate can compress zeros to a thousandth."""

_silenced_loggers: set[str] = set()
_NOWHERE = logging.NullHandler()


@dataclass(frozen=True)
class Found:
    """One scan of a source, or the reason why it cannot be used.

    item: its ordinal in the source ("", "train/12", "row/7"), never text taken from the file.
    split: where the file itself gives one.
    burn_in: why the picture may name or show the patient, in fixed words; whoever packs decides (``data.burned_in``).
    alike: it is one of several frames or volumes of one recording, which belong in one split.
    group: what the file says about whose scan it is. Private: it becomes a key where the file is read.
    part_of: the item of the recording that it is a piece of, which belongs in one split, too.
    study: the same for the examination that the scan belongs to, which is one patient's.
    mask: the file says that its values are labels, not intensities (``data.masks``).
    label_risk: why the file's labels look like identifiers, in fixed words; whoever packs decides
        (``data.identifying_labels``).
    """

    item: str
    split: str | None
    scan: Scan | ScanError
    burn_in: str | None = None
    alike: bool = False
    group: str | None = field(default=None, repr=False)
    study: str | None = field(default=None, repr=False)
    part_of: str | None = None
    mask: bool = False
    label_risk: str | None = None


class Reader(Protocol):
    """One format. Stateless; ``suffixes`` are lowercase, "" means a file name without a suffix."""

    name: str
    suffixes: tuple[str, ...]

    def scans(self, path: Path) -> Iterator[Found]:
        """All scans of a local file, one in memory at a time. ScanError if the file itself cannot be read."""
        ...


def silence_logger(name: str) -> None:
    """Suppress this logger and those below it inside ``refusing``. A reader's module calls it for its library."""
    _silenced_loggers.add(name)


def _silenced() -> tuple[logging.Logger, ...]:
    """Disabling a logger leaves those below it, which the libraries' modules have, as they are."""
    return _loggers_of(frozenset(_silenced_loggers), len(logging.root.manager.loggerDict))


@lru_cache(maxsize=1)
def _loggers_of(names: frozenset[str], known: int) -> tuple[logging.Logger, ...]:
    """These loggers and those below. Asked for each row of a CSV file, where a process may have a thousand loggers:
    they are searched again when there are others than the ``known`` ones. Loggers are never removed."""
    above = tuple(f"{name}." for name in names)
    below = {name for name in list(logging.root.manager.loggerDict) if name.startswith(above)}
    return tuple(logging.getLogger(name) for name in sorted(names | below))


@contextmanager
def _silent_loggers() -> Iterator[None]:
    """Loggers that a library makes only now are not disabled: they pass their lines to those above, which drop them.
    Pillow imports a format, with its logger, when it meets the first such file."""
    loggers = [logger for logger in _silenced() if not logger.disabled]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            # With no handler at all, the standard library would print warnings.
            logger.disabled, logger.handlers, logger.propagate = True, [_NOWHERE], False
        yield
    finally:
        for logger, handlers, propagate in before:
            logger.disabled, logger.handlers, logger.propagate = False, handlers, propagate


@contextmanager
def refusing(reason: str) -> Iterator[None]:
    """Turn any error of a library into ScanError(reason), and suppress its warnings and log lines.

    Errors of this machine (memory, disk, open files) are raised: quarantining scans would hide them.
    """
    try:
        with _silent_loggers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ScanError, MemoryError):
        raise
    except OSError as error:
        if is_machine_failure(error):
            raise
        # An error number comes from the system (permission, disk); libraries raise OSError without one.
        raise ScanError(
            reason if error.errno is None else f"the file could not be read (error {error.errno})"
        ) from None
    except Exception:
        raise ScanError(reason) from None


def reason_against(error: Exception) -> str:
    """Why a source cannot be read whose reader raised this error, in fixed words: a library's may quote the file.

    Errors that are not the source's fault (storage, the run file, memory, this machine) are raised.
    """
    if isinstance(error, ScanError):
        return error.what
    if isinstance(error, MedfunctaError | MemoryError):
        raise error
    if isinstance(error, OSError) and is_machine_failure(error):
        raise explain(error, ANONYMOUS_SOURCE) from None
    return f"the reader failed: {type(error).__name__}"


def check_size(shape: Iterable[int]) -> int:
    """Number of values that a header declares; ScanError, before they are allocated, if there are too many."""
    shape = tuple(shape)
    if any(n <= 0 for n in shape):
        raise ScanError("the header declares an empty axis")
    values = math.prod(shape)
    if values > MAX_VALUES:
        raise ScanError(f"the header declares {values} values, more than {MAX_VALUES}")
    return values


def check_inflation(inflated: int, stored: int) -> None:
    """ScanError for a decompression bomb: ``stored`` bytes that declare a far larger size."""
    if inflated > max(FREE_BYTES, LARGEST_RATIO * stored):
        raise ScanError(f"a compressed file of {stored} bytes that becomes {inflated}: a decompression bomb")
