"""What a run needs on one machine: an S3 server, the proxy that counts its requests, and three Ray nodes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
from s3fs import S3FileSystem

from benchmarks.common import ROOT
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3

BUCKET = "million"
NODES = 3
LISTED_EVERY_S = 20.0


class Place:
    """``with Place(folder) as place``: the server's files lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Place:
        server = self._stack.enter_context(EmbeddedS3(self.folder / "s3"))
        server.create_bucket(BUCKET)
        self._stack.enter_context(kept_listed(server))
        self._endpoint = self._stack.enter_context(counting(server.endpoint))
        self.environment = {
            **os.environ,
            **server.environment,
            "AWS_ENDPOINT_URL": self._endpoint,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            "MEDFUNCTA_LOCAL_CLUSTER": str(self.folder / "c"),
            "RAY": str(Path(sys.executable).parent / "ray"),
        }
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def objects(self, path: str) -> list[Path]:
        """Objects below a prefix, as the server has them on disk: looking there costs no request."""
        return [file for file in (self.folder / "s3" / BUCKET / path).rglob("*") if file.is_file()]

    def counts(self) -> Counter[str]:
        """Requests since the beginning, and ``bytes ...``."""
        with urllib.request.urlopen(f"{self._endpoint}/counts", timeout=30) as answer:
            found = json.load(answer)
        return Counter(found["requests"] | {f"bytes {name}": n for name, n in found["bytes"].items()})


@contextmanager
def kept_listed(server: EmbeddedS3) -> Iterator[None]:
    """rclone computes the MD5 of an object when it is first listed, which a real S3 has from its upload: whoever listed
    two gigabytes for the first time would wait for minutes. So all is listed every now and then, past the proxy."""
    over = threading.Event()
    address = server.environment
    files = S3FileSystem(
        endpoint_url=server.endpoint,
        key=address["AWS_ACCESS_KEY_ID"],
        secret=address["AWS_SECRET_ACCESS_KEY"],
        config_kwargs={"read_timeout": 600},
        skip_instance_cache=True,
        use_listings_cache=False,
    )

    def list_all() -> None:
        while not over.wait(LISTED_EVERY_S):
            with suppress(OSError):
                files.find(f"{BUCKET}/store")

    thread = threading.Thread(target=list_all, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def counting(endpoint: str) -> Iterator[str]:
    """The address of a proxy in front of ``endpoint``."""
    command = [sys.executable, "-m", "benchmarks.million.counting_proxy", endpoint.removeprefix("http://")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@dataclass
class Nodes:
    """A Ray cluster as ``cluster/local.sh`` starts it, each node a process with its descendants."""

    environment: Mapping[str, str]
    folder: Path

    def kill_one(self) -> None:
        """SIGKILL to a node, raylet and workers at once."""
        node = psutil.Process(int((self.folder / f"node-{NODES}.pid").read_text()))
        for process in [*node.children(recursive=True), node]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """All that runs on nodes now, the head's included."""
        found = []
        for file in self.folder.glob("*.pid"):
            with suppress(psutil.NoSuchProcess):
                found += psutil.Process(int(file.read_text())).children(recursive=True)
        return found


@contextmanager
def ray_nodes(place: Place) -> Iterator[Nodes]:
    """A head without CPUs, and three nodes of one each."""
    # Of the agents' ports only the first is known to be free: as many follow as there are nodes.
    ports = zip(("PORT", "DASHBOARD", "AGENT"), free_ports(3), strict=True)
    environment = place.environment | {f"MEDFUNCTA_LOCAL_{name}": str(port) for name, port in ports}
    script = str(ROOT / "cluster" / "local.sh")
    up = subprocess.run(
        ["bash", script, "up", str(NODES), "1"], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    told = dict(word.split("=", 1) for word in up.stdout.splitlines()[-1].split()[1:])
    try:
        yield Nodes(environment | told, place.folder / "c")
    finally:
        subprocess.run(["bash", script, "down"], env=environment, check=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def wait_until(there: Callable[[], bool], while_: Callable[[], bool]) -> bool:
    """Whether ``there`` came to be while ``while_`` held."""
    while while_():
        if there():
            return True
        time.sleep(0.2)
    return False
