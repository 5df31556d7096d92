"""A pod's log as lines with times, through the API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import urllib3

from medfuncta_dist.errors import ClusterError
from medfuncta_dist.submit.backends.backend import LogLine
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import call_api

DRIVER_LOG = "driver-log"
"""The head pod's container that repeats the driver's lines; a head without it has only Ray's own."""
STREAM_TIMEOUT_S = 30
"""A stream that says nothing for so long is opened again: it may be dead."""


def read_pod_log(core: Any, head: Any, *, since: float, follow: bool) -> Iterator[LogLine]:
    """Lines of a head pod later than ``since`` (Unix seconds). A stream that breaks ends: who follows asks again.

    ClusterError when the log can not be read, unless it is followed: then a pod may just not be there yet.
    """
    meta = head.metadata
    wanted = {"timestamps": True, "follow": follow, **_choose_container(head), **_build_since(since)}
    read = partial(core.read_namespaced_pod_log, meta.name, meta.namespace, **wanted, _preload_content=False)
    try:
        stream = call_api(partial(read, _request_timeout=(5, STREAM_TIMEOUT_S)), where=f"log of pod {meta.name}")
    except ClusterError:
        if follow:
            return
        raise
    yield from (line for line in _parse_stream(stream) if (line.time or 0.0) > since)


def _choose_container(head: Any) -> dict[str, str]:
    names = [container.name for container in head.spec.containers]
    return {"container": DRIVER_LOG if DRIVER_LOG in names else names[0]}


def _build_since(since: float) -> dict[str, int]:
    return {"since_seconds": int(time.time() - since) + 2} if since else {}


def _parse_stream(stream: Any) -> Iterator[LogLine]:
    """Lines of a log with timestamps; a connection that breaks ends them."""
    rest = b""
    try:
        for chunk in stream.stream(decode_content=False):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from map(_parse_line, whole)
    except urllib3.exceptions.HTTPError:
        return
    finally:
        stream.release_conn()
    if rest:
        yield _parse_line(rest)


def _parse_line(data: bytes) -> LogLine:
    stamp, _, text = data.decode(errors="replace").partition(" ")
    try:
        return LogLine(text, datetime.fromisoformat(stamp).timestamp())
    except ValueError:
        return LogLine(data.decode(errors="replace"))
