"""The embedded server: it answers, it asks for credentials, and it ends with its owner, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from medfuncta_dist.errors import StorageError
from medfuncta_dist.quickstart import embedded_s3
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.storage.object_store import ObjectStore

OWNER = """
import sys, time
from pathlib import Path
from medfuncta_dist.quickstart import embedded_s3
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
with EmbeddedS3(Path(sys.argv[1])) as s3:
    print(s3.endpoint, flush=True)
    time.sleep(60)
"""


def answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=5)
    except urllib.error.HTTPError:
        return True  # it asks for credentials
    except OSError:
        return False
    return True


def soon_silent(endpoint: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and answers(endpoint):
        time.sleep(0.1)
    return not answers(endpoint)


def test_two_servers_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedS3(tmp_path / "one") as one, EmbeddedS3(tmp_path / "two") as two:
        for server in (one, two):
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            server.create_bucket("bucket")
            server.create_bucket("bucket")
            ObjectStore("s3://bucket").write("name", server.endpoint.encode())
        for server in (one, two):
            assert (server.folder / "bucket" / "name").read_text() == server.endpoint
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
            ObjectStore("s3://bucket").read("name")
    assert not answers(one.endpoint)
    assert not answers(two.endpoint)


def test_credentials_stay_off_the_command_line(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as server:
        secrets = [server.environment[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
        lines = [line for child in psutil.Process().children(recursive=True) for line in child.cmdline()]
    assert any("serve" in line for line in lines)
    assert not any(secret in line for line in lines for secret in secrets)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_owner(tmp_path: Path, how: signal.Signals) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    endpoint = owner.stdout.readline().strip()
    assert answers(endpoint)
    os.kill(owner.pid, how)
    owner.wait()
    assert soon_silent(endpoint)


def test_settings_of_the_users_rclone_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE_ADDR", "0.0.0.0:1")
    monkeypatch.setenv("RCLONE_READ_ONLY", "not even a value")
    with EmbeddedS3(tmp_path) as server:
        assert server.endpoint.startswith("http://127.0.0.1:")


def test_a_server_that_can_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "rclone"
    broken.write_text("#!/bin/sh\necho no room left >&2; exit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(embedded_s3, "rclone", lambda: str(broken))
    with pytest.raises(StorageError, match="did not start") as caught, EmbeddedS3(tmp_path / "served"):
        pass
    assert "no room left" in caught.value.where
