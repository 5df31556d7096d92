"""Checks of storage, against a real S3 server and a local folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor import storage_checks
from medfuncta_dist.doctor.check import CheckResult, Outcome, run_checks
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.s3.s3_client import s3_client
from tests.certificates import Authority
from tests.chaos.faulty_s3 import Faults, FaultyS3
from tests.plain_servers import closed_port, no_settings
from tests.proxy_server import ProxyServer
from tests.stores import roots
from tests.unit.doctor.served import served


def answers(root: str) -> dict[str, CheckResult]:
    settings = {"name": "r", "storage": root, "data": {"source": "x/*.png", "shape": [8, 8]}}
    storage_checks.check_credentials.cache_clear()
    return {
        found.name: found for found in run_checks(storage_checks.list_storage_checks(RunFile.model_validate(settings)))
    }


def test_a_real_s3_server_is_read_written_and_left_as_it_was(
    s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_checks, "SLOW_REQUEST_S", 60.0)  # a busy machine is not the server's fault
    root = s3()
    found = answers(root)
    assert {name: f.finding.state for name, f in found.items()} == {
        "credentials": Outcome.PASSED,
        "connection": Outcome.PASSED,
        "storage": Outcome.PASSED,
        "multipart": Outcome.PASSED,
        "conditional writes": Outcome.WARNED,  # this server ignores conditions
        "clock": Outcome.PASSED,
    }
    assert "environment variables" in found["credentials"].finding.what
    assert "MiB/s" in found["multipart"].finding.what
    assert ObjectStore(root).list("") == []


def test_a_slow_storage_is_told(s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_checks, "SLOW_REQUEST_S", 0.0)
    assert answers(s3())["storage"].finding.state is Outcome.WARNED


def test_a_bucket_that_is_not_there_is_told_with_what_to_do(s3: Callable[[], str]) -> None:
    s3()
    found = answers("s3://no-such-bucket-here/x")
    assert found["storage"].finding.state is Outcome.FAILED
    assert found["storage"].finding.do
    assert found["multipart"].finding.state is Outcome.FAILED


def test_without_credentials_nothing_else_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    found = answers("s3://bucket/x")
    assert found["credentials"].finding.state is Outcome.FAILED
    assert found["storage"].finding.state is found["multipart"].finding.state is Outcome.SKIPPED


def test_a_local_folder(tmp_path: Path) -> None:
    found = answers(str(tmp_path / "storage"))
    assert [f.finding.state for f in found.values()] == [Outcome.PASSED]


@pytest.mark.parametrize(
    ("minutes", "state"), [(0, Outcome.PASSED), (-5, Outcome.WARNED), (20, Outcome.FAILED), (-20, Outcome.FAILED)]
)
def test_a_clock_that_is_wrong(minutes: int, state: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    there = datetime.now(UTC) + timedelta(minutes=minutes)
    with served({}, date=format_datetime(there, usegmt=True)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        found = storage_checks.check_clock()
    assert found.state is state
    assert ("behind" in found.what) == (minutes > 0) or minutes == 0


def test_a_server_that_is_not_there_is_told_once_and_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    began = time.monotonic()
    found = answers("s3://bucket/x")
    assert time.monotonic() - began < 10
    assert found["connection"].finding.state is Outcome.FAILED
    assert "refuses connections" in found["connection"].finding.what
    others = {f.finding.state for name, f in found.items() if name not in ("credentials", "connection")}
    assert others == {Outcome.SKIPPED}


def test_a_server_with_a_certificate_of_ones_own_ca_passes_and_tells_the_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage_checks, "SLOW_REQUEST_S", 60.0)
    for name in no_settings(os.environ):
        monkeypatch.delenv(name)
    authority = Authority(tmp_path)
    with EmbeddedS3(tmp_path / "s3", authority.issue("127.0.0.1", "s3.test")) as server, ProxyServer() as proxy:
        (tmp_path / "s3" / "bucket").mkdir()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert "is not trusted here" in answers("s3://bucket/x")["connection"].finding.what
        proxy.names["s3.test"] = server.endpoint.partition("://")[2]
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.test:9000")
        found = answers("s3://bucket/x")
    assert {found[name].finding.state for name in ("connection", "storage", "multipart", "clock")} == {Outcome.PASSED}
    assert f"s3.test:9000 through the proxy {proxy.url[7:]}" in found["connection"].finding.what
    assert "SSL_CERT_FILE" in found["connection"].finding.what
    assert set(proxy.asked) == {"CONNECT s3.test:9000"}


def test_an_upload_in_parts_that_is_refused_half_way_is_told_with_its_code_and_left_nowhere(tmp_path: Path) -> None:
    with roots("moto", tmp_path) as root, FaultyS3(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        store = ObjectStore(root())
        proxy.faults = Faults(
            methods=frozenset({"PUT"}),
            path="partNumber=2",
            error_share=1.0,
            error_status=403,
            error_code="AccessDenied",
        )
        with pytest.MonkeyPatch.context() as here:
            here.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            found = storage_checks.check_multipart(store)
        left = s3_client().ask(lambda files: files._call_s3("list_multipart_uploads", Bucket="stores"), 20)
    assert found.state is Outcome.FAILED
    assert "403" in found.what
    assert not left.get("Uploads")
