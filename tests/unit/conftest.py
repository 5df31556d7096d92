"""An API server over HTTP, a run whose storage is a folder, and a small archive of scans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs
from medfuncta_dist.submit.rules.validate_manifest import require_valid
from tests.api_server import ApiServer, Refused
from tests.integration.training_runs import mounted_run
from tests.writers import write_medmnist


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """It admits what the schemas and the controllers' rules admit."""
    with ApiServer(_admit).serving() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("MEDFUNCTA_COMMIT", "0" * 40)  # somebody may commit while this runs
        yield api


def _admit(manifest: dict[str, Any]) -> None:
    try:
        require_valid(manifest)
    except RunFileError as error:
        raise Refused(422, error.what) from error


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    """On a folder that pods mount, too: nothing but the cluster is played here."""
    return mounted_run(tmp_path)


@pytest.fixture
def jobs() -> KubernetesJobs:
    return KubernetesJobs()


@pytest.fixture
def local_tasks(monkeypatch):
    """Pack tasks in this process: what is tested here is around them."""
    from medfuncta_dist.stages import pack_stage
    from medfuncta_dist.task_map import map_here

    monkeypatch.setattr(pack_stage, "cpu_fan_out", lambda run: map_here)


@pytest.fixture
def archive(tmp_path, local_tasks) -> Path:
    write_medmnist(tmp_path / "images.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    return tmp_path
