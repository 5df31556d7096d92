"""Following one object through list and watch, however a watch ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from kubernetes import watch
from kubernetes.client import ApiException

from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import call_api, explain_api_error, is_transient

ListCall = Callable[..., Any]
PAUSE_S = 0.5
"""Before a watch that dropped or failed is opened again, so that a server that ends each one at once is not flooded."""


def watch_object(list_objects: ListCall, name: str, every_s: float, *, where: str) -> Iterator[dict[str, Any] | None]:
    """The object now, after every change, and at least every ``every_s`` seconds; None, last, once it is deleted.

    A watch that times out or breaks continues from the last resourceVersion seen, bookmarks included. If that version
    is too old (410), or the error is transient, it starts again from a new list.
    """
    found, version = _list_object(list_objects, name, where)
    yield found
    while found is not None:
        try:
            for kind, changed in _stream_events(list_objects, name, version, every_s):
                version = changed["metadata"]["resourceVersion"]
                if kind != "BOOKMARK":
                    found = None if kind == "DELETED" else changed
                    yield found
                if found is None:
                    return
        except urllib3.exceptions.HTTPError:
            time.sleep(PAUSE_S)
        except ApiException as error:
            if error.status != 410 and not is_transient(error):
                raise explain_api_error(error, where) from error
            if error.status != 410:
                time.sleep(PAUSE_S)  # a server that has just started may list already, and refuse watches with 429
            found, version = _list_object(list_objects, name, where)
        yield found


def _list_object(list_objects: ListCall, name: str, where: str) -> tuple[dict[str, Any] | None, str]:
    answer = call_api(lambda: list_objects(field_selector=f"metadata.name={name}"), where=where)
    return next(iter(answer["items"]), None), answer["metadata"]["resourceVersion"]


def _stream_events(
    list_objects: ListCall, name: str, version: str, every_s: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    seconds = max(1, round(every_s))
    stream = watch.Watch().stream(  # type: ignore[no-untyped-call]
        list_objects,
        field_selector=f"metadata.name={name}",
        resource_version=version,
        allow_watch_bookmarks=True,
        timeout_seconds=seconds,
        _request_timeout=(5, seconds + 10),
    )
    for event in stream:
        yield event["type"], event["raw_object"]
