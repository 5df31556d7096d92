"""What a reader is, and what all readers share: refusing in fixed words, and limits checked before allocation.

A library's message or warning can quote the file (a patient's name in a damaged header), so none leaves a reader.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.scan import Scan
from medfuncta_dist.storage.request_failures import is_machine_failure

MAX_VALUES = 2**29
"""Values of one scan: a whole-body CT of 512 x 512 x 2048. A header that declares more is damaged, or an attack."""

FREE_BYTES = 2**28
LARGEST_RATIO = 100
"""What may be inflated without a look at the ratio, and how many times its size a file may become beyond that. Scans
shrink to a half or a tenth; deflate can make a thousandth of zeros."""

LIBRARY_LOGGERS = ("pydicom", "nibabel.global", "PIL")


@dataclass(frozen=True)
class Found:
    """One scan of a source, or why it is none.

    item: its ordinal in the source ("", "train/12", "row/7"), never text taken from the file.
    split: where the file itself gives one.
    """

    item: str
    split: str | None
    scan: Scan | ScanError


class Reader(Protocol):
    """One format. Stateless; ``suffixes`` are lowercase, "" stands for a file name without one."""

    name: str
    suffixes: tuple[str, ...]

    def scans(self, path: Path) -> Iterator[Found]:
        """All scans of a local file, one in memory at a time. ScanError if the file itself can not be read."""
        ...


@contextmanager
def refusing(reason: str) -> Iterator[None]:
    """Turn whatever a library raises into ScanError(reason), and keep its warnings and log lines to itself.

    Not what this machine lacks (memory, disk, open files): quarantining a scan for that would hide what needs mending.
    """
    loggers = [logger for name in LIBRARY_LOGGERS if not (logger := logging.getLogger(name)).disabled]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
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
    finally:
        for logger in loggers:
            logger.disabled = False


def check_size(shape: Iterable[int]) -> int:
    """Number of values that a header declares; ScanError before they are allocated if that is absurd."""
    shape = tuple(shape)
    if any(n <= 0 for n in shape):
        raise ScanError("the header declares an empty axis")
    values = math.prod(shape)
    if values > MAX_VALUES:
        raise ScanError(f"the header declares {values} values, more than {MAX_VALUES}")
    return values


def check_inflation(inflated: int, stored: int) -> None:
    """ScanError for a decompression bomb: ``stored`` bytes that declare to become very many."""
    if inflated > max(FREE_BYTES, LARGEST_RATIO * stored):
        raise ScanError(f"a compressed file of {stored} bytes that becomes {inflated}: a decompression bomb")
