"""The real server, started once for all of these tests. `make test-kubernetes` builds it; without it they skip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.rules.manifest_schema import SCHEMAS_VARIABLE
from tests.integration.training_runs import mounted_run
from tests.kubernetes.build_server import Built, is_built
from tests.kubernetes.crds import read_crds
from tests.kubernetes.real_server import RAY_JOBS, RealServer

VARIABLE = "MEDFUNCTA_KUBERNETES_SERVER"
"""The folder that build_server.py built the server in."""


def find_reason_to_skip(folder: str, schemas: str) -> str:
    """Why the tests cannot run with this server and these schemas; empty if they can."""
    if not folder:
        return "`make test-kubernetes` runs this, with a real API server"
    if not is_built(Path(folder)):
        reason = Built.inside(Path(folder)).reason
        return reason.read_text() if reason.exists() else f"{folder} has no server: `make test-kubernetes`"
    return "" if schemas else f"{SCHEMAS_VARIABLE} names no folder with the schemas of KubeRay and Kueue"


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder, schemas = os.environ.get(VARIABLE, ""), os.environ.get(SCHEMAS_VARIABLE, "")
    if reason := find_reason_to_skip(folder, schemas):
        pytest.skip(reason)
    server = RealServer(Built.inside(Path(folder).absolute()), tmp_path_factory.mktemp("kubernetes"))
    with server.serving(read_crds(Path(schemas))):
        yield server


@pytest.fixture
def server(serving: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealServer]:
    """The server, without any RayJob, as the cluster of the kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(serving.write_kubeconfig(tmp_path)))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("MEDFUNCTA_COMMIT", "0" * 40)
    yield serving
    path = RAY_JOBS.format(namespace="medfuncta")
    for job in serving.ask("GET", path).body["items"]:
        serving.patch(job["metadata"]["name"], {"metadata": {"finalizers": None}})
    serving.ask("DELETE", path)


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    return mounted_run(tmp_path)
