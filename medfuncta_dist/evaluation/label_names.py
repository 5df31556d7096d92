"""The labels of a scan as one name, for tables and legends."""

from __future__ import annotations

from collections.abc import Sequence


def label_name(labels: Sequence[int]) -> str:
    """Several labels together are one name: ``0, 3``; "" where a scan has none."""
    return ", ".join(map(str, labels))
