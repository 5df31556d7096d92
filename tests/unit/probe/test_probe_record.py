from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import FormatVersionError, IntegrityError
from medfuncta_dist.probe.probe_record import read_probe
from medfuncta_dist.storage.object_store import ObjectStore


def test_the_record_of_another_version_is_refused_by_name(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    store.write("runs/small/report/probe.json", b'{"format_version": 1, "label": 0}')
    with pytest.raises(FormatVersionError, match="format_version 1 is not a probe of version 2 or 3"):
        read_probe(store, "small")


def test_what_is_not_json_is_damaged(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    store.write("runs/small/report/probe.json", b"{")
    with pytest.raises(IntegrityError, match="the probe's record is not JSON"):
        read_probe(store, "small")
