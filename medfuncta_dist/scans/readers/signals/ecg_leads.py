"""What readers of electrocardiograms share: the choice of leads, and one unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.scan import Scan, stored

MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
"""Of one unit. Both letters for micro are in use. Values in other units (mmHg, counts) stay as they are."""


def chosen_leads(names: Sequence[str], data: Data | None) -> list[int]:
    """The leads that become channels, as ``data.leads`` names or numbers them. ScanError where one is missing."""
    wanted = list(range(len(names))) if data is None or data.leads is None else [_lead(names, w) for w in data.leads]
    if data is not None and len(wanted) != data.channels:
        raise ScanError(
            f"a recording of {len(wanted)} leads, where data.channels is {data.channels}; data.leads chooses leads"
        )
    return wanted


def _lead(names: Sequence[str], wanted: str | int) -> int:
    if isinstance(wanted, int):
        if wanted >= len(names):
            raise ScanError(f"a recording of {len(names)} leads, without one that data.leads numbers {wanted}")
        return wanted
    found = [i for i, name in enumerate(names) if name.strip().casefold() == wanted.strip().casefold()]
    if len(found) != 1:
        raise ScanError(f"{len(found) or 'no'} leads of the recording have a name of data.leads")
    return found[0]


def to_millivolts(unit: str) -> float:
    """The factor to millivolts; 1 for what is no voltage."""
    return MILLIVOLTS.get(unit.strip().casefold(), 1.0)


def signal(leads: Sequence[np.ndarray], frequency: float) -> Scan:
    """The scan of leads, (samples,) each, at ``frequency`` in Hz; its spacing is in seconds."""
    if len({len(lead) for lead in leads}) != 1:
        raise ScanError("leads of different sampling rates: data.leads chooses those of one rate")
    return Scan(stored(np.stack(leads)), (1 / frequency,), None, "ECG")
