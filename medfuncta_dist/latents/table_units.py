"""The units of a latent table's int8 numbers, as metadata of its Parquet schema: one text, for P float32 numbers.

An int8 number stands for itself times its scan's ``scale`` times its unit, which all scans share.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.storage.parsing.strict_json import RESTORE

KEY = "units"

Units = Float[np.ndarray, " latent"]


def write_units(units: Units) -> dict[str, str]:
    """As metadata: base64 of little-endian float32."""
    return {KEY: base64.b64encode(np.asarray(units, "<f4").tobytes()).decode()}


def read_units(metadata: Mapping[bytes, bytes] | None, latent: int, where: str = "") -> Units | None:
    """The units that metadata holds of ``latent`` numbers; None where it holds none.

    IntegrityError unless they are as many positive finite numbers.
    """
    text = (metadata or {}).get(KEY.encode())
    if text is None:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _damaged("are not base64", where) from error
    if len(data) != 4 * latent:
        raise _damaged(f"have {len(data)} bytes, expected {4 * latent}", where)
    units = np.frombuffer(data, "<f4").astype(np.float32)
    if not (np.isfinite(units) & (units > 0)).all():
        raise _damaged("are not all positive finite numbers", where)
    return units


def _damaged(how: str, where: str) -> IntegrityError:
    return IntegrityError(f"the units of a latent table's int8 numbers {how}", where=where, do=RESTORE)
