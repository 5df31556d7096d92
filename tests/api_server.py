"""A Kubernetes API server for the resources that this project uses: real HTTP on 127.0.0.1, for the official client.

It keeps RayJobs, RayClusters, Workloads, Pods (with logs), Events and Nodes, and behaves as the real one does in what a
client can see: create and conflict, get, list with label and field selectors, watch from a resourceVersion with
bookmarks, merge patch, the status subresource, deletion with finalizers and by propagation policy, dry runs, Status
objects for every error. For custom resources, tests/kubernetes/test_same_answers.py compares it with the real one. It
adds no defaults of a CRD and no managedFields, and sends bookmarks more often. It runs no controller: a test plays
KubeRay and Kueue with ``set_status`` and ``put``.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
KINDS = {
    "rayjobs": ("ray.io/v1", "RayJob"),
    "rayclusters": ("ray.io/v1", "RayCluster"),
    "workloads": ("kueue.x-k8s.io/v1beta2", "Workload"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "nodes": ("v1", "Node"),
}
PATH = re.compile(
    r"/(?:api/v1|apis/ray\.io/v1|apis/kueue\.x-k8s\.io/v1beta2)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>status|log))?"
)
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
}
VERBS = {"POST": "create", "GET": "get", "PATCH": "patch", "DELETE": "delete"}
SELECTED_FIELDS = {"events": ("type", "reason", "involvedObject.name"), "pods": ("status.phase", "spec.nodeName")}
"""Of these kinds more fields can be selected by than of custom resources."""
NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
TOKEN = "a-service-account-token"


class Refused(Exception):
    """An error answer: the code of a Status object, its message, and details where it is about one object."""

    def __init__(self, code: int, message: str, retry_after: int | None = None, details: Object | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after, self.details = code, message, retry_after, details

    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": REASONS.get(self.code, "InternalError"),
            **({"details": self.details} if self.details else {}),
            "code": self.code,
        }


class NoSuchPath(Exception):
    """A path that nothing serves, as of a kind that is not installed: the answer is text, and no Status."""


def _group(plural: str) -> str:
    """The API group of a kind; empty for Kubernetes' core."""
    return KINDS[plural][0].rpartition("/")[0]


def _qualified(plural: str) -> str:
    return f"{plural}.{_group(plural)}".rstrip(".")


def _details(plural: str, name: str, kind: str = "", **more: Any) -> Object:
    """What a Status says of its object."""
    group = {"group": _group(plural)} if _group(plural) else {}
    return {"name": name, **group, "kind": kind or plural, **more}


def _require_good_names(plural: str, namespace: str, thing: Object) -> None:
    meta, kind = thing.get("metadata", {}), KINDS[plural][1]
    if meta.get("namespace", namespace) != namespace:
        raise Refused(400, "the namespace of the provided object does not match the namespace sent on the request")
    name = meta.get("name", "")
    if not NAME.fullmatch(name):
        what = f'Invalid value: "{name}": {NAME_RULE}'
        cause = {"reason": "FieldValueInvalid", "message": what, "field": "metadata.name"}
        message = f'{kind}.{_group(plural)} "{name}" is invalid: metadata.name: {what}'
        raise Refused(422, message, details=_details(plural, name, kind, causes=[cause]))


@dataclass
class Fault:
    """The next ``times`` requests of this method and kind are answered with ``code``; 0 cuts the connection."""

    method: str
    plural: str
    code: int
    times: int = 1
    retry_after: int | None = None
    after: bool = False
    """Answer so only after the request was carried out: what a client sees of an answer that got lost."""
    watch: bool = False


@dataclass
class Cluster:
    """The objects, and every change since the last compaction; ``version`` is the resourceVersion of the last one."""

    validate: Callable[[Object], None] = lambda manifest: None
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    logs: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    changes: list[tuple[int, str, str, Object]] = field(default_factory=list)
    version: int = 100
    oldest: int = 100
    changed: threading.Condition = field(default_factory=threading.Condition)

    def create(self, plural: str, namespace: str, thing: Object, dry: bool = False) -> Object:
        thing = deepcopy(thing)
        meta = thing.setdefault("metadata", {})
        key = (plural, namespace, meta["name"])
        if plural == "rayjobs":
            self.validate(thing)
        with self.changed:
            if key in self.objects:
                going = "object is being deleted: " if "deletionTimestamp" in self.objects[key]["metadata"] else ""
                message = f'{going}{_qualified(plural)} "{meta["name"]}" already exists'
                raise Refused(409, message, details=_details(plural, meta["name"]))
            meta |= {"namespace": namespace, "uid": f"uid-{self.version}", "creationTimestamp": _now()}
            meta["generation"] = 1
            thing.pop("status", None)
            return thing if dry else self._store(key, thing, "ADDED")

    def get(self, plural: str, namespace: str, name: str) -> Object:
        with self.changed:
            found = self.objects.get((plural, namespace, name))
            if found is None:
                raise Refused(404, f'{_qualified(plural)} "{name}" not found', details=_details(plural, name))
            return deepcopy(found)

    def list(self, plural: str, namespace: str, wanted: Callable[[Object], bool]) -> tuple[list[Object], int]:
        with self.changed:
            things = [o for (p, n, _), o in self.objects.items() if (p, n) == (plural, namespace) and wanted(o)]
            return deepcopy(things), self.version

    def patch(self, plural: str, namespace: str, name: str, patch: Object) -> Object:
        """A merge patch of any part. Over HTTP, the object and its status are patched apart, as ``_patched`` says."""
        with self.changed:
            found = self.get(plural, namespace, name)
            merged, key = _merged(found, patch), (plural, namespace, name)
            if merged == found:
                return found
            if merged.get("spec") != found.get("spec"):
                merged["metadata"]["generation"] += 1
            if merged["metadata"].get("deletionTimestamp") and not merged["metadata"].get("finalizers"):
                self._remove(key)
                return deepcopy(merged)
            return self._store(key, merged, "MODIFIED")

    def delete(self, plural: str, namespace: str, name: str, policy: str) -> Object:
        with self.changed:
            thing = self.get(plural, namespace, name)
            key, meta = (plural, namespace, name), thing["metadata"]
            if policy == "Foreground" and self._dependents(meta["uid"]):
                meta["finalizers"] = sorted({*meta.get("finalizers", []), "foregroundDeletion"})
            if not meta.get("finalizers"):
                return self._remove(key, policy)
            if "deletionTimestamp" in meta:
                return thing
            meta |= {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": 0, "generation": meta["generation"] + 1}
            return self._store(key, thing, "MODIFIED")

    def events_since(self, version: int, plural: str, namespace: str) -> Iterator[tuple[int, str, Object]]:
        if version < self.oldest:
            raise Refused(410, f"too old resource version: {version} ({self.oldest})")
        for number, kind, place, thing in self.changes:
            if number > version and place == f"{plural}/{namespace}":
                yield number, kind, thing

    def events_of_start(self, plural: str, namespace: str) -> tuple[list[tuple[int, str, Object]], int]:
        """What a watch without a resourceVersion begins with: all that is there, as added; and where it goes on."""
        things, version = self.list(plural, namespace, lambda thing: True)
        return [(version, "ADDED", thing) for thing in things], version

    def compact(self) -> None:
        """Forget all changes, as etcd does after a while: watches from before get 410."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self.changes.clear()

    def _dependents(self, uid: str) -> list[tuple[str, str, str]]:
        owners = {k: o["metadata"].get("ownerReferences", []) for k, o in self.objects.items()}
        return [key for key, references in owners.items() if any(r["uid"] == uid for r in references)]

    def _store(self, key: tuple[str, str, str], thing: Object, kind: str) -> Object:
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = thing
        self.changes.append((self.version, kind, f"{key[0]}/{key[1]}", deepcopy(thing)))
        self.changed.notify_all()
        return deepcopy(thing)

    def _remove(self, key: tuple[str, str, str], policy: str = "Background") -> Object:
        gone = self._store(key, self.objects[key], "DELETED")
        if policy != "Orphan":
            for dependent in self._dependents(gone["metadata"]["uid"]):
                self._remove(dependent)
        return gone


class ApiServer:
    """The server, and a test's hands in it: faults, KubeRay's part, the requests that were seen."""

    def __init__(self, validate: Callable[[Object], None] = lambda manifest: None, bookmark_s: float = 0.2) -> None:
        self.cluster, self.faults, self.seen = Cluster(validate), [], []  # type: ignore[var-annotated]
        self.tokens, self.forbidden, self.bookmark_s = {TOKEN}, set(), bookmark_s  # type: ignore[var-annotated]
        self.has_kuberay, self.has_kueue = True, True
        self._cut = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def serving(self) -> Iterator[ApiServer]:
        """Serve until the block ends."""
        api = self

        class Handler(_Handler):
            server_api = api

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.drop_watches()
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    def kubeconfig(self, folder: Path, namespace: str = "medfuncta", token: str = TOKEN) -> Path:
        """A kubeconfig file that leads here."""
        path = folder / "kubeconfig"
        named = {"cluster": "here", "user": "me", "namespace": namespace}
        whole = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": named}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(whole))
        return path

    def fail(self, method: str, plural: str, code: int, **how: Any) -> None:
        """Inject a fault."""
        self.faults.append(Fault(method, plural, code, **how))

    def drop_watches(self) -> None:
        """Cut the connection of every open watch."""
        with self.cluster.changed:
            self._cut += 1
            self.cluster.changed.notify_all()

    def set_status(self, name: str, *, namespace: str = "medfuncta", **status: Any) -> None:
        """What KubeRay would write of a RayJob."""
        self.cluster.patch("rayjobs", namespace, name, {"status": status})

    def add_pod(self, name: str, lines: list[str], *, namespace: str = "medfuncta", **meta: Any) -> None:
        """A running pod with a log."""
        spec = {"containers": [{"name": "ray-head"}, {"name": "driver-log"}]}
        self.cluster.create("pods", namespace, {"metadata": {"name": name, **meta}, "spec": spec})
        self.cluster.logs[name] = [(time.time(), line) for line in lines]

    def put(self, plural: str, name: str, *, namespace: str = "medfuncta", **parts: Any) -> Object:
        """An object with labels, owner, spec and status, as a controller leaves it. ``owner`` is another object."""
        owner = parts.pop("owner", None)
        owners = [{"uid": owner["metadata"]["uid"], "kind": owner.get("kind", "")}] if owner else []
        meta = {"name": name, "labels": parts.pop("labels", {}), "ownerReferences": owners}
        status = parts.pop("status", {})
        group, kind = KINDS[plural]
        self.cluster.create(plural, namespace, {"apiVersion": group, "kind": kind, "metadata": meta, **parts})
        return self.cluster.patch(plural, namespace, name, {"status": status})

    def warn(
        self, about: str, reason: str, message: str, *, kind: str = "Warning", namespace: str = "medfuncta"
    ) -> None:
        """An event about an object."""
        event = {"metadata": {"name": f"{about}.{self.cluster.version}"}, "type": kind, "lastTimestamp": _now()}
        what = {"reason": reason, "message": message, "involvedObject": {"name": about}}
        self.cluster.create("events", namespace, {**event, **what})

    def say(self, pod: str, line: str) -> None:
        """A further line in a pod's log."""
        with self.cluster.changed:
            self.cluster.logs[pod].append((time.time(), line))
            self.cluster.changed.notify_all()

    def fault(self, method: str, plural: str, *, watch: bool, after: bool) -> Fault | None:
        """The fault that is due for this request, used up by one."""
        for fault in self.faults:
            if (fault.method, fault.plural, fault.watch, fault.after) == (method, plural, watch, after) and fault.times:
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server_api: ApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PATCH(self) -> None:
        self._handle("PATCH")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        try:
            self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(method)
        except NoSuchPath:
            self._send_text(404, "404 page not found\n")
        except Refused as refused:
            retry = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
            self._send(refused.code, refused.status(), **retry)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, method: str) -> None:
        url, api = urlsplit(self.path), self.server_api
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        match = PATH.fullmatch(url.path)
        missing = {"rayjobs": not api.has_kuberay, "workloads": not api.has_kueue}
        if match is None or missing.get(match["plural"]) or match["plural"] not in KINDS:
            raise NoSuchPath
        place, watch = match.groupdict(), query.get("watch", "").lower() == "true"
        place["namespace"] = place["namespace"] or ""
        plural = place["plural"]
        api.seen.append((method, url.path, query))
        self._admit(method, place)
        if self._broken(api.fault(method, plural, watch=watch, after=False)):
            return
        answer = self._carry_out(method, place, query, watch)
        if answer is not None and not self._broken(api.fault(method, plural, watch=watch, after=True)):
            self._send(201 if method == "POST" else 200, answer)

    def _admit(self, method: str, place: dict[str, Any]) -> None:
        plural = place["plural"]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.server_api.tokens:
            raise Refused(401, "Unauthorized")
        if (method, plural) in self.server_api.forbidden:
            what = f'{_qualified(plural)} is forbidden: User "me" cannot {VERBS[method]} resource "{plural}"'
            where = f'in API group "{_group(plural)}" in the namespace "{place["namespace"]}"'
            raise Refused(403, f"{what} {where}", details=_details(plural, place["name"] or ""))

    def _broken(self, fault: Fault | None) -> bool:
        if fault is None:
            return False
        if fault.code:
            raise Refused(fault.code, f"injected {fault.code}", fault.retry_after)
        self.close_connection = True
        self.connection.close()
        return True

    def _carry_out(self, method: str, place: dict[str, Any], query: dict[str, str], watch: bool) -> Object | None:
        cluster, plural, namespace, name = self.server_api.cluster, place["plural"], place["namespace"], place["name"]
        if method == "POST":
            thing = json.loads(self._body)
            _require_good_names(plural, namespace, thing)
            return cluster.create(plural, namespace, thing, query.get("dryRun") == "All")
        if method == "DELETE":
            options = json.loads(self._body or b"{}") or {}
            policy = query.get("propagationPolicy") or options.get("propagationPolicy") or "Background"
            return _deletion(plural, cluster.delete(plural, namespace, name, policy))
        if method == "PATCH":
            return cluster.patch(plural, namespace, name, _patched(json.loads(self._body), place["sub"]))
        if place["sub"] == "log":
            return self._log(cluster.get(plural, namespace, name)["metadata"]["name"], query)
        if name is not None:
            return cluster.get(plural, namespace, name)
        if watch:
            return self._watch(plural, namespace, query)
        items, version = cluster.list(plural, namespace, _selector(plural, query))
        version_of_kind, kind = KINDS[plural]
        meta = {**({"continue": ""} if _group(plural) else {}), "resourceVersion": str(version)}
        return {"apiVersion": version_of_kind, "kind": f"{kind}List", "metadata": meta, "items": items}

    def _watch(self, plural: str, namespace: str, query: dict[str, str]) -> None:
        api, version = self.server_api, int(query.get("resourceVersion") or 0)
        cluster, wanted, cut = api.cluster, _selector(plural, query), api._cut
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or 60)
        self._open()
        if not version:
            start, version = cluster.events_of_start(plural, namespace)
            self._send_events(start, wanted)
        while time.monotonic() < deadline:
            try:
                with cluster.changed:
                    found = list(cluster.events_since(version, plural, namespace))
                    if not found:
                        cluster.changed.wait(api.bookmark_s)
                        found = list(cluster.events_since(version, plural, namespace))
            except Refused as expired:  # a watch has been answered with 200 by then
                self._chunk({"type": "ERROR", "object": expired.status()})
                return self._close()
            if api._cut != cut:
                self.close_connection = True
                return  # without the last chunk: the client sees a broken stream
            version = self._send_events(found, wanted) or version
            if not found and query.get("allowWatchBookmarks", "").lower() == "true":
                group, kind = KINDS[plural]
                version = cluster.version
                mark = {"apiVersion": group, "kind": kind, "metadata": {"resourceVersion": str(version)}}
                self._chunk({"type": "BOOKMARK", "object": mark})
        self._close()

    def _send_events(self, events: list[tuple[int, str, Object]], wanted: Callable[[Object], bool]) -> int:
        """Those that are asked for; the version of the last event."""
        version = 0
        for version, kind, thing in events:  # noqa: B007
            if wanted(thing):
                self._chunk({"type": kind, "object": thing})
        return version

    def _log(self, pod: str, query: dict[str, str]) -> None:
        api = self.server_api
        since = time.time() - float(query["sinceSeconds"]) if "sinceSeconds" in query else 0.0
        sent, cut = 0, api._cut
        self._open("text/plain")
        while True:
            with api.cluster.changed:
                lines = api.cluster.logs.get(pod, [])
                gone = ("pods", pod) not in {(p, n) for p, _, n in api.cluster.objects}
                if sent == len(lines) and query.get("follow") == "true" and not gone and api._cut == cut:
                    api.cluster.changed.wait(0.2)
                new, sent = lines[sent:], len(lines)
            for moment, line in new:
                if moment >= since:
                    stamp = datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "000Z")
                    self._raw(f"{stamp} {line}\n".encode())
            if api._cut != cut:
                self.close_connection = True
                return
            if gone or query.get("follow") != "true":
                return self._close()

    def _open(self, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, event: Object) -> None:
        self._raw(json.dumps(event).encode() + b"\n")

    def _raw(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _close(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, code: int, body: Object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _send_text(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def _patched(patch: Object, sub: str | None) -> Object:
    """What of a patch counts: at the status subresource only the status, elsewhere all but it."""
    return {key: value for key, value in patch.items() if (key == "status") == (sub == "status")}


def _deletion(plural: str, thing: Object) -> Object:
    """The answer to a deletion: the object while finalizers keep it, then a Status. A pod is always shown."""
    meta = thing["metadata"]
    if meta.get("finalizers") or not _group(plural):
        return thing
    details = _details(plural, meta["name"], uid=meta["uid"])
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _selector(plural: str, query: dict[str, str]) -> Callable[[Object], bool]:
    """Equality and existence of labels, equality of fields: what the client asks with."""
    labels = [part.partition("=") for part in query.get("labelSelector", "").split(",") if part]
    fields = [part.partition("=") for part in query.get("fieldSelector", "").split(",") if part]
    for name, _, _ in fields:
        if name not in ("metadata.name", "metadata.namespace", *SELECTED_FIELDS.get(plural, ())):
            raise Refused(400, f"field label not supported: {name}")

    def wanted(thing: Object) -> bool:
        meta = thing["metadata"]
        has = meta.get("labels", {})
        involved = {f"involvedObject.{key}": value for key, value in thing.get("involvedObject", {}).items()}
        found = {**thing, **involved, **{f"metadata.{key}": value for key, value in meta.items()}}
        return all((has.get(key) == value) if equals else key in has for key, equals, value in labels) and all(
            found.get(key) == value for key, _, value in fields
        )

    return wanted


def _merged(thing: Object, patch: Object) -> Object:
    """RFC 7386: null removes."""
    merged = dict(thing)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merged(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
