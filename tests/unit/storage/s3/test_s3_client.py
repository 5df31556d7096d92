"""What the client reads from S3's answers."""

from __future__ import annotations

import pytest
from botocore.utils import parse_timestamp

from medfuncta_dist.storage.s3.s3_client import _read_time


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28T09:35:12.000Z",
        "2026-11-28T09:35:12Z",
        "2026-11-28T09:35:12+02:00",
        "2026-11-28T09:35:12",
        "Sat, 28 Nov 2026 09:35:12 GMT",
        "1795858512",
    ],
)
def test_times_are_those_that_botocore_reads(text: str) -> None:
    assert _read_time(text) == parse_timestamp(text)
