from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.scans.readers.transparency import on_black


@given(st.sampled_from(["uint8", "uint16", "uint32"]), st.data())
def test_rounded_to_the_nearest(dtype: str, data: st.DataObject) -> None:
    largest = int(np.iinfo(dtype).max)
    colour, alpha = data.draw(st.integers(0, largest)), data.draw(st.integers(0, largest))
    result = on_black(np.array([[colour]], dtype), np.array([[alpha]], dtype))
    assert result.dtype == dtype
    assert abs(int(result[0, 0]) * largest - colour * alpha) * 2 <= largest
    assert on_black(np.array([[colour]], dtype), np.array([[largest]], dtype))[0, 0] == colour
