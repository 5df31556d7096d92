"""Memory that a sweep frees stays with the process: the next sweep takes the same.

By default glibc hands large blocks back to the system as soon as they are free, and the system clears every page
again when it is next asked for one. A sweep takes and frees its activations, megabytes each, many times a second: on
two cores that was half of all time (docs/method.md, 7). No number changes.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h: how much free memory is kept, and from which size a block is the system's own."""
KEPT_BYTES = 2**29
"""A sweep of 15 layers at the largest chunks of a CPU holds a quarter of it."""
LARGEST_KEPT = 2**25
"""Bytes of one block; glibc takes no more."""


@cache
def keep_freed_memory() -> bool:
    """Ask the C library for it, once a process; whether it does. Whoever set glibc's own variables is left alone."""
    if os.environ.keys() & {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, which has no such habit or no such switch
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
