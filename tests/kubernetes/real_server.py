"""The real server of custom resources with an etcd of its own, on 127.0.0.1, and a test's hands in both.

It answers for the kinds whose CRDs it is given, and for CustomResourceDefinitions. Pods and their logs, events, nodes,
Secrets, ConfigMaps, namespaces and all other kinds of Kubernetes' core are served by other parts of an API server: it
says 404 to them. No controller runs: a test plays KubeRay with ``set_status``. It has no namespaces either, so that any
name of one is good.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import urllib3
import yaml

from tests.certificates import Authority
from tests.kubernetes.build_server import Built

Object = dict[str, Any]
START_S = 60.0
"""An idle machine needs five seconds."""
RAY_JOBS = "/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ADMISSION_OFF = (
    "NamespaceLifecycle",  # asks for namespaces, which this server does not have
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionWebhook",
    "MutatingAdmissionPolicy",
    "ValidatingAdmissionPolicy",
)
JSON, MERGE_PATCH = "application/json", "application/merge-patch+json"


class Answer(NamedTuple):
    """The status and the JSON of an answer; text where it is not JSON."""

    code: int
    body: Any


def read_body(content: str, text: str, *, is_watch: bool) -> Any:
    """JSON as such, a watch's events as a list, all else as text."""
    if not content.startswith(JSON):
        return text
    return [json.loads(line) for line in text.splitlines()] if is_watch else json.loads(text)


class RealServer:
    """etcd and the API server as processes; ``url`` stays the same when the API server is started again."""

    def __init__(self, programs: Built, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._authority = Authority(folder / "certificates", "cluster")
        self._serving = self._authority.issue("127.0.0.1")
        self._admin = self._authority.issue("tester", organization="system:masters")
        self._ports = {name: _find_free_port() for name in ("etcd", "peers", "api")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        certificates = {"ca_certs": str(self._authority.bundle), "cert_file": str(self._admin.certificate)}
        self._http = urllib3.PoolManager(**certificates, key_file=str(self._admin.key), retries=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._ports['api']}"

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['etcd']}"

    @contextmanager
    def serving(self, crds: list[Object]) -> Iterator[RealServer]:
        """Serve these kinds until the block ends."""
        try:
            self._start_etcd()
            self.start()
            for crd in crds:
                answer = self.ask("POST", CRDS, crd)
                assert answer.code == 201, answer
            _wait_for("the CRDs to be served", lambda: all(map(self._is_established, crds)))
            yield self
        finally:
            for name in ("api", "etcd"):
                self._stop(name)

    def start(self) -> None:
        """Start the API server, and wait until it is ready."""
        kubeconfig = str(self.write_kubeconfig(self._folder))
        self._run(
            "api",
            str(self._programs.server),
            f"--etcd-servers={self.etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports['api']}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--client-ca-file={self._authority.bundle}",
            "--authentication-skip-lookup",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--disable-admission-plugins={','.join(ADMISSION_OFF)}",
            "--enable-priority-and-fairness=false",
        )
        # It waits for ever for a list of Services, by which it would find conversion webhooks.
        _wait_for("the API server", lambda: self.ask("GET", "/readyz", exclude="informer-sync").code == 200)

    def restart_after_compaction(self, *, until_watched: bool = True) -> None:
        """Forget all earlier versions in etcd, and start the API server anew, so that its own cache has none either.

        It writes once first, since the newest version is never forgotten. Afterwards RayJobs can be listed, and with
        ``until_watched`` watched: a little longer it answers 429 to that.
        """
        written = self.ask("PUT", CRDS + "/rayjobs.ray.io", self._touched("rayjobs.ray.io"))
        assert written.code == 200, written
        self._stop("api")
        revision = int(self._ask_etcd("range", key=_encode(b"/"))["header"]["revision"])
        self._ask_etcd("compaction", revision=revision, physical=True)
        self.start()
        # A whole API server says 503 until it knows all kinds; this part of it alone says 404.
        watch = {"watch": "true", "timeoutSeconds": "1"} if until_watched else {}
        _wait_for("RayJobs", lambda: self.ask("GET", RAY_JOBS.format(namespace="medfuncta"), **watch).code == 200)

    def ask(self, method: str, path: str, body: Any = None, content: str = JSON, **query: str) -> Answer:
        """One request with all permissions. Code 0: there was no answer."""
        data = None if body is None else json.dumps(body).encode()
        url = self.url + path + (f"?{urlencode(query)}" if query else "")
        try:
            answer = self._http.request(method, url, body=data, headers={"Content-Type": content}, timeout=20)
        except urllib3.exceptions.HTTPError as error:
            return Answer(0, str(error))
        kind = answer.headers.get("Content-Type", "")
        return Answer(answer.status, read_body(kind, answer.data.decode(), is_watch="watch" in query))

    def get(self, name: str, namespace: str = "medfuncta") -> Object | None:
        """A RayJob; None if there is none."""
        answer = self.ask("GET", f"{RAY_JOBS.format(namespace=namespace)}/{name}")
        return answer.body if answer.code == 200 else None

    def patch(self, name: str, patch: Object, namespace: str = "medfuncta") -> Answer:
        """A merge patch of a RayJob, not of its status."""
        return self.ask("PATCH", f"{RAY_JOBS.format(namespace=namespace)}/{name}", patch, MERGE_PATCH)

    def delete(self, name: str, namespace: str = "medfuncta") -> Answer:
        return self.ask("DELETE", f"{RAY_JOBS.format(namespace=namespace)}/{name}")

    def set_status(self, name: str, *, namespace: str = "medfuncta", **status: Any) -> None:
        """What KubeRay would write of a RayJob."""
        path = f"{RAY_JOBS.format(namespace=namespace)}/{name}/status"
        answer = self.ask("PATCH", path, {"status": status}, MERGE_PATCH)
        assert answer.code == 200, answer

    def write_kubeconfig(self, folder: Path, *, url: str = "", namespace: str = "medfuncta") -> Path:
        """A kubeconfig with the administrator's certificate; ``url`` where a proxy stands before the server."""
        cluster = {"server": url or self.url, "certificate-authority": str(self._authority.bundle)}
        user = {"client-certificate": str(self._admin.certificate), "client-key": str(self._admin.key)}
        whole = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "me", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "here", "user": "me", "namespace": namespace}}],
            "current-context": "test",
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(whole))
        return path

    def _start_etcd(self) -> None:
        peers = f"http://127.0.0.1:{self._ports['peers']}"
        self._run(
            "etcd",
            str(self._programs.etcd),
            f"--data-dir={self._folder / 'etcd-data'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
        )
        _wait_for("etcd", lambda: self._http.request("GET", f"{self.etcd_url}/health").status == 200)

    def _ask_etcd(self, what: str, **body: Any) -> Mapping[str, Any]:
        answer = self._http.request("POST", f"{self.etcd_url}/v3/kv/{what}", body=json.dumps(body).encode())
        assert answer.status == 200, answer.data
        return dict(json.loads(answer.data))

    def _touched(self, crd: str) -> Object:
        """A CRD with another annotation, so that the store has a newer version than anything that was watched."""
        found: Object = self.ask("GET", f"{CRDS}/{crd}").body
        found["metadata"].setdefault("annotations", {})["touched"] = str(time.time())
        return found

    def _is_established(self, crd: Object) -> bool:
        spec = crd["spec"]
        path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        return self.ask("GET", path).code == 200

    def _run(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    def _stop(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(what: str, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if is_there():
                return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {START_S:.0f} s: {what}")


def _encode(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
