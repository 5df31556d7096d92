"""The log of a pod as lines with times, through the API server."""

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
"""The container of the head pod that prints the driver's lines. A head without it has only Ray's own lines."""
STREAM_TIMEOUT_S = 30
"""A stream that is silent for so long is opened again: its connection may be dead."""


def read_pod_log(core: Any, head: Any, *, since: float, follow: bool) -> Iterator[LogLine]:
    """The lines of a head pod after ``since`` (Unix seconds). A broken connection ends them: a follower calls again.

    ClusterError when the log cannot be read; with ``follow`` there are no lines instead, as the pod may not exist yet.
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
    """The lines of a log with timestamps, until its end or a broken connection."""
    rest = b""
    try:
        for chunk in stream.stream(decode_content=False):
            *complete, rest = (rest + chunk).split(b"\n")
            yield from map(_parse_line, complete)
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
