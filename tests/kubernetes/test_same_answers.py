"""tests/api_server.py, with which all other tests are run, beside the real server: the same requests, the same answers.

Compared is what a client can see of RayJobs: status codes, whole Status objects, lists, watch events, and when a
resourceVersion changes. What differs on purpose is taken out by ``_normalize``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from tests.api_server import TOKEN, ApiServer
from tests.kubernetes.real_server import JSON, MERGE_PATCH, Answer, RealServer, read_body

JOBS = "/apis/ray.io/v1/namespaces/medfuncta/rayjobs"
FINALIZER = "ray.io/rayjob-finalizer"
Ask = Callable[..., Answer]


class Caller:
    """One side of the comparison: it sends requests, and notes their answers in a form that both sides can have."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self.noted = ask, []  # type: ignore[var-annotated]
        self._versions: list[str] = []
        self._uids: list[str] = []

    def __call__(self, method: str, path: str = JOBS, body: Any = None, content: str = JSON, **query: str) -> Any:
        answer = self._ask(method, path, body, content, **query)
        self.noted.append((method, path, query, answer.code, self._normalize(answer.body)))
        return answer.body

    def patch(self, path: str, body: Any) -> Any:
        return self("PATCH", JOBS + path, body, MERGE_PATCH)

    def _normalize(self, body: Any) -> Any:
        """Without what differs between any two servers: versions and uids become the order in which they appeared.
        Without what the test server leaves out: managedFields, defaults of the CRD, and the bookmarks' moments."""
        if isinstance(body, list):
            return [self._normalize(event) for event in body if event.get("type") != "BOOKMARK"]
        if not isinstance(body, dict):
            return body
        left_out = ("managedFields", "submissionMode", "backoffLimit", "ttlSecondsAfterFinished", "failed", "succeeded")
        found = {key: value for key, value in body.items() if key not in left_out}
        for key, kept in (("resourceVersion", self._versions), ("uid", self._uids)):
            if key in found:
                kept += [found[key]] if found[key] not in kept else []
                found[key] = f"{key} {kept.index(found[key])}"
        for key in ("creationTimestamp", "deletionTimestamp"):
            if key in found:
                assert len(found[key]) == len("2026-01-01T00:00:00Z")
                found[key] = "a time"
        return {key: self._item(key, value) for key, value in found.items()}

    def _item(self, key: str, value: Any) -> Any:
        if key == "items":
            return [self._normalize(item) for item in value]
        return self._normalize(value) if isinstance(value, dict) else value


def make_job(name: str = "x-fit-1", **meta: Any) -> dict[str, Any]:
    labels = {"medfuncta.dev/run": name.partition("-")[0]}
    metadata = {"name": name, "labels": labels, **meta}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": {"entrypoint": "true"}}


def create(call: Caller) -> None:
    call("POST", body=make_job())
    call("POST", body=make_job())
    call("GET", f"{JOBS}/x-fit-1")
    call("POST", body=make_job("y-fit-1"), dryRun="All")
    call("GET", f"{JOBS}/y-fit-1")


def refuse(call: Caller) -> None:
    call("POST", body=make_job("Not_A_Name"))
    call("POST", body=make_job(namespace="another"))
    call("GET", fieldSelector="spec.entrypoint=true")
    for method in ("GET", "DELETE"):
        call(method, f"{JOBS}/nothing")
    call.patch("/nothing", {"metadata": {"labels": {"a": "b"}}})
    call.patch("/nothing/status", {"status": {"jobStatus": "RUNNING"}})


def ask_for_no_such_kind(call: Caller) -> None:
    call("GET", "/apis/ray.io/v1/namespaces/medfuncta/raynothings")
    call("GET", "/apis/ray.io/v1/namespaces/medfuncta/raynothings/x")
    call("GET", "/apis/nothing.io/v1/namespaces/medfuncta/rayjobs")
    call("POST", "/apis/nothing.io/v1/namespaces/medfuncta/rayjobs", make_job())


def select(call: Caller) -> None:
    for name in ("x-fit-1", "x-fit-2", "y-fit-1"):
        call("POST", body=make_job(name))
    call("GET")
    call("GET", labelSelector="medfuncta.dev/run=x")
    call("GET", labelSelector="medfuncta.dev/run")
    call("GET", labelSelector="medfuncta.dev/stage")
    call("GET", labelSelector="medfuncta.dev/run=x", fieldSelector="metadata.name=x-fit-2")
    call("GET", "/apis/ray.io/v1/namespaces/another/rayjobs")


def patch(call: Caller) -> None:
    call("POST", body=make_job())
    call.patch("/x-fit-1", {"metadata": {"labels": {"a": "b"}}})
    call.patch("/x-fit-1", {"metadata": {"labels": {"a": "b"}}})  # nothing new: the version stays
    call.patch("/x-fit-1", {"spec": {"suspend": True}})
    call.patch("/x-fit-1", {"spec": {"suspend": None}, "status": {"jobStatus": "RUNNING"}})
    call.patch("/x-fit-1/status", {"spec": {"suspend": True}, "status": {"jobStatus": "RUNNING"}})
    call.patch("/x-fit-1/status", {"status": {"jobStatus": "RUNNING"}})
    call("GET", f"{JOBS}/x-fit-1")


def delete(call: Caller) -> None:
    call("POST", body=make_job())
    call("DELETE", f"{JOBS}/x-fit-1", propagationPolicy="Background")
    call("POST", body=make_job(finalizers=[FINALIZER]))
    call("DELETE", f"{JOBS}/x-fit-1", propagationPolicy="Background")
    call("DELETE", f"{JOBS}/x-fit-1")
    call("POST", body=make_job())
    call.patch("/x-fit-1", {"metadata": {"finalizers": None}})
    call("GET", f"{JOBS}/x-fit-1")


def watch(call: Caller) -> None:
    first = call("POST", body=make_job())["metadata"]["resourceVersion"]
    call("POST", body=make_job("y-fit-1"))
    call.patch("/x-fit-1/status", {"status": {"jobStatus": "RUNNING"}})
    call("DELETE", f"{JOBS}/x-fit-1")
    every = {"watch": "true", "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
    call("GET", resourceVersion=first, **every)
    call("GET", resourceVersion=first, fieldSelector="metadata.name=x-fit-1", **every)
    call("GET", resourceVersion=first, labelSelector="medfuncta.dev/run=y", **every)
    call("GET", **every)


TALKS = [create, refuse, ask_for_no_such_kind, select, patch, delete, watch]


@pytest.fixture
def test_server(server: RealServer, tmp_path: Path) -> Iterator[Ask]:
    """How tests/api_server.py is asked."""
    http = urllib3.PoolManager(retries=False)
    with ApiServer(bookmark_s=0.3).serving() as api:

        def ask(method: str, path: str, body: Any, content: str, **query: str) -> Answer:
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content}
            url = f"{api.url}{path}" + (f"?{urlencode(query)}" if query else "")
            answer = http.request(method, url, body=json.dumps(body).encode() if body else None, headers=headers)
            kind = answer.headers["Content-Type"]
            return Answer(answer.status, read_body(kind, answer.data.decode(), is_watch="watch" in query))

        yield ask


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.__name__)
def test_both_servers_give_the_same_answers(
    server: RealServer, test_server: Ask, talk: Callable[[Caller], None]
) -> None:
    real, ours = Caller(server.ask), Caller(test_server)
    talk(real)
    talk(ours)
    for expected, found in zip(real.noted, ours.noted, strict=True):
        assert _without_versions_asked(found) == _without_versions_asked(expected)


def _without_versions_asked(noted: tuple[Any, ...]) -> tuple[Any, ...]:
    method, path, query, *answer = noted
    return method, path, {key: value for key, value in query.items() if key != "resourceVersion"}, *answer


def test_both_say_of_a_version_that_is_forgotten_that_it_is_too_old(server: RealServer, test_server: Ask) -> None:
    """Within a watch that began well: 410 is an event, and not the answer's status."""
    every = {"watch": "true", "timeoutSeconds": "1", "resourceVersion": "1"}
    for ask in (server.ask, test_server):
        code, ((event,)) = ask("GET", JOBS, None, JSON, **every)
        status = event["object"]
        assert (code, event["type"], status.pop("message").partition(":")[0]) == (
            200,
            "ERROR",
            "too old resource version",
        )
        assert status == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "reason": "Expired",
            "code": 410,
        }


def test_both_send_bookmarks_of_the_same_form(server: RealServer, test_server: Ask) -> None:
    every = {"watch": "true", "timeoutSeconds": "2", "allowWatchBookmarks": "true"}
    found = []
    for ask in (server.ask, test_server):
        version = ask("GET", JOBS, None, JSON).body["metadata"]["resourceVersion"]
        marks = list(ask("GET", JOBS, None, JSON, resourceVersion=version, **every).body)
        assert {event["type"] for event in marks} <= {"BOOKMARK"}
        found.append([{key: type(value) for key, value in event["object"].items()} for event in marks[:1]])
    assert found[1] == [{"apiVersion": str, "kind": str, "metadata": dict}]
    assert found[0] in ([], found[1])  # the real one sends its first a minute after the beginning, or at the end
