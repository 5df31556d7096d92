"""Storage of each kind: a local folder, S3 that honours conditional writes (moto), S3 that ignores them (rclone)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from unittest.mock import patch

from moto.moto_server.threaded_moto_server import MotoRequestHandler
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import make_server

from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3

KINDS = ("local", "moto", "rclone")


@contextmanager
def roots(kind: str, folder: Path) -> Iterator[Callable[[], str]]:
    """Call it for a root of this kind that nothing else uses; ``os.environ`` leads to its server meanwhile."""
    if kind == "local":
        yield lambda: str(folder / secrets.token_hex(4))
        return
    with _server(kind, folder) as environment, patch.dict(os.environ, environment):
        yield lambda: f"s3://stores/{secrets.token_hex(4)}"


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    if kind == "rclone":
        with EmbeddedS3(folder / "s3") as server:
            server.create_bucket("stores")
            yield server.environment
        return
    with moto() as environment:
        files = S3FileSystem(endpoint_url=environment["AWS_ENDPOINT_URL"], key="key", secret="secret")
        files.makedirs("stores", exist_ok=True)  # a later server of this process has the former one's buckets
        yield environment


class Silent(MotoRequestHandler):
    """Does not log every request."""

    def log_request(self, *_: object) -> None: ...


@contextmanager
def moto() -> Iterator[dict[str, str]]:
    """moto's S3 server, one request at a time: it checks a condition and writes in two steps."""
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), request_handler=Silent)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
