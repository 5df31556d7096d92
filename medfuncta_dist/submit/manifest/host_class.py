"""Where a host is, as far as a NetworkPolicy can tell."""

from __future__ import annotations

from enum import StrEnum


class HostClass(StrEnum):
    """A NetworkPolicy knows addresses, not names."""

    PUBLIC = "public"
    PRIVATE = "private"
    CLUSTER = "cluster"
    """A Service of this cluster."""
