"""What `manifests` writes is built by kubectl: every overlay, and one of a user's own, as k8s/README.md has it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuncta_dist.deploy.manifests_folder import write_manifests
from tests.unit.docs.pages import ROOT, blocks

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())
README = ROOT / "k8s" / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which the manifests were written to ``medfuncta``, as the page does."""
    folder = tmp_path_factory.mktemp("manifests")
    write_manifests(str(folder / "medfuncta"), docs=False, force=False)
    return folder


def build(folder: Path) -> list[dict[str, Any]]:
    """All resources of a kustomization."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@needs_kubectl
@pytest.mark.parametrize("name", [f"overlays/{name}" for name in OVERLAYS] + ["base"])
def test_every_overlay_is_built(name: str, folder: Path) -> None:
    built = build(folder / "medfuncta" / "k8s" / name)
    assert {"Namespace", "ServiceAccount", "NetworkPolicy", "ResourceQuota"} <= {part["kind"] for part in built}


@needs_kubectl
def test_the_pages_own_overlay_is_built_on_the_written_base(folder: Path) -> None:
    (overlay,) = [block for block in blocks(README) if block.language == "yaml" and "my-cluster" in block.text]
    (folder / "my-cluster").mkdir()
    (folder / "my-cluster" / "kustomization.yaml").write_text(overlay.text)
    built = build(folder / "my-cluster")
    assert {"ClusterQueue", "PodMonitor", "PriorityClass", "ConfigMap"} <= {part["kind"] for part in built}
    (account,) = [p for p in built if p["kind"] == "ServiceAccount" and p["metadata"]["name"] == "medfuncta"]
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    assert {p["metadata"]["name"] for p in built if p["kind"] == "NetworkPolicy"} >= {"s3", "public-s3"}


@needs_kubectl
def test_the_pages_commands_write_and_build(tmp_path: Path) -> None:
    """Its shell block as it stands, with the command of this environment."""
    (script,) = [
        block for block in blocks(README) if block.remark and block.remark[0] == "run by" and block.language == "sh"
    ]
    command = f'medfuncta-dist() {{ "{sys.executable}" -m medfuncta_dist.cli.app "$@"; }}\n{script.text}'
    done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kind: ClusterQueue" in done.stdout
    assert (tmp_path / "medfuncta/docs/operations.md").is_file()


def test_every_patch_has_a_resource_to_change(folder: Path) -> None:
    """Without kubectl, too: each patch file names a resource of the base."""
    base = folder / "medfuncta" / "k8s" / "base"
    listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    known = {identity(part) for name in listed for part in yaml.safe_load_all((base / name).read_text())}
    patches = []
    for file in (folder / "medfuncta" / "k8s").rglob("kustomization.yaml"):
        for patch in yaml.safe_load(file.read_text()).get("patches", []):
            patches.append(identity(yaml.safe_load((file.parent / patch["path"]).read_text())))
    assert patches
    assert [patch for patch in patches if patch not in known] == []


def identity(part: dict[str, Any]) -> tuple[str, str, str]:
    return part["apiVersion"], part["kind"], part["metadata"]["name"]


def test_links_of_the_written_pages_lead_somewhere(tmp_path: Path) -> None:
    """Those between k8s/ and docs/; pages of the repository that are not written are only in a clone."""
    write_manifests(str(tmp_path), docs=True, force=False)
    links = 0
    for page in tmp_path.rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            path = (page.parent / target).resolve()
            if path.is_relative_to(tmp_path / "k8s") or path.is_relative_to(tmp_path / "docs"):
                links += 1
                assert path.exists() or "<" in target, f"{page.name}: {target}"
    assert links > 50


def test_the_answer_says_what_was_written_and_what_is_next(tmp_path: Path) -> None:
    found = write_manifests(str(tmp_path / "my cluster"), docs=False, force=False)
    assert found["overlays"] == OVERLAYS
    assert found["written"] == found["files"]
    assert not [name for name in found["files"] if not name.startswith("k8s/")]
    assert f"  kubectl apply -k '{tmp_path}/my cluster/k8s/overlays/kueue'" in found["said"]
    again = write_manifests(str(tmp_path / "my cluster"), docs=False, force=False)
    assert again["written"] == []
    assert "0 new" in again["said"][0]
