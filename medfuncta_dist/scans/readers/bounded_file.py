"""A file for libraries to read: a read takes no more memory than the file has bytes, whatever a header declares."""

from __future__ import annotations

import io
import os
from pathlib import Path

from medfuncta_dist.errors import ScanError


class BoundedFile(io.BufferedReader):
    """A local file, read only. Python allocates a read's memory before it knows how much is left; this checks first.

    ``largest``, if set, is the most bytes that one read may request (ScanError).
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size
        self.largest: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes, all that are left for -1 or None."""
        left = max(self._size - self.tell(), 0)
        length = left if size is None or size < 0 else min(size, left)
        if self.largest is not None and length > self.largest:
            raise ScanError(f"the file's directory is larger than {self.largest} bytes")
        return super().read(length)
