"""The wheel of the package, made from its files: equal files make equal bytes."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import version
from io import BytesIO

import pytest

from medfuncta_dist import __version__
from medfuncta_dist.deploy import own_wheel
from medfuncta_dist.deploy.own_wheel import build_own_wheel, pack_wheel
from medfuncta_dist.deploy.package_files import Content
from medfuncta_dist.errors import MedfunctaError


def test_equal_files_make_an_equal_wheel_without_what_is_no_part_of_it() -> None:
    name, packed = build_own_wheel()
    assert (name, packed) == build_own_wheel()
    names = zipfile.ZipFile(BytesIO(packed)).namelist()
    assert len(names) == len(set(names))
    assert {"medfuncta_dist/k8s/base/rayjob.yaml", "medfuncta_dist/cluster/Dockerfile"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "/tools/" in name or "direct_url" in name]


def test_its_record_has_the_digest_of_every_file() -> None:
    """As pip checks them; ``test_wheel.py`` installs such a wheel."""
    with zipfile.ZipFile(BytesIO(build_own_wheel()[1])) as wheel:
        record = f"medfuncta_dist-{__version__}.dist-info/RECORD"
        rows = dict(row.split(",", 1) for row in wheel.read(record).decode().splitlines())
        assert rows.pop(record) == ","
        assert rows.keys() == set(wheel.namelist()) - {record}
        for name, row in rows.items():
            data = wheel.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert row == f"sha256={digest},{len(data)}"


def test_permissions_are_kept() -> None:
    packed = pack_wheel({"a": Content(b"1"), "b": Content(b"2", executable=True)})
    entries = zipfile.ZipFile(BytesIO(packed)).infolist()
    assert [entry.external_attr >> 16 & 0o777 for entry in entries] == [0o644, 0o755, 0o644]


def test_metadata_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_wheel, "__version__", "9.9.9")
    with pytest.raises(MedfunctaError, match=f"of version {version('medfuncta-dist')}, not 9.9.9"):
        build_own_wheel()
