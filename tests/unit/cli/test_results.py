from __future__ import annotations

import pytest

from medfuncta_dist.cli.results import parse_region
from medfuncta_dist.errors import RunFileError


def test_a_region_is_a_slice_per_axis():
    assert parse_region("0:64,32:96,:") == [slice(0, 64), slice(32, 96), slice(None)]
    assert parse_region("10:,:20") == [slice(10, None), slice(None, 20)]
    assert parse_region(None) is None


@pytest.mark.parametrize("text", ["", "5", "0:4,", "0-4", "0:4:2", "-1:4", "0:4,0:4,0:4,0:4", "a:b"])
def test_what_is_no_region_is_refused(text: str):
    with pytest.raises(RunFileError, match="is not a region") as caught:
        parse_region(text)
    assert caught.value.where == "--region"
