"""The commands of docs/operations.md about a private endpoint, run as they stand: a server of an own CA, a proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from medfuncta_dist.config.load import parse
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from tests.certificates import Authority
from tests.plain_servers import no_settings
from tests.proxy_server import ProxyServer
from tests.unit.docs.pages import ROOT, blocks

TITLE = "## Private endpoint: own CA, proxy, another port\n"
PAGE = ROOT / "docs" / "operations.md"


def section(language: str) -> list[str]:
    """The texts of the section's blocks in a language."""
    before, _, after = PAGE.read_text().partition(TITLE)
    first = before.count("\n")
    last = first + after.partition("\n## ")[0].count("\n") + 1
    return [block.text for block in blocks(PAGE) if first < block.line <= last and block.language == language]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run file with the section's keys, the CA, and the overlay."""
    keys, overlay = section("yaml")
    smallest = {"name": "small", "storage": "s3://bucket/x", "data": {"source": "s3://bucket/*.png", "shape": [8, 8]}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**smallest, **yaml.safe_load(keys)}))
    parse((tmp_path / "run.yaml").read_text())
    (tmp_path / "my-cluster").mkdir()
    (tmp_path / "my-cluster" / "kustomization.yaml").write_text(overlay)
    shutil.copytree(ROOT / "k8s", tmp_path / "medfuncta" / "k8s")
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """A server and the proxy that leads to it by the page's name."""
    authority = Authority(folder / "authority")
    shutil.copy(authority.bundle, folder / "hospital-ca.pem")
    left = set(no_settings(os.environ))
    base = {name: value for name, value in os.environ.items() if name not in left}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with EmbeddedS3(folder / "s3", authority.issue("s3.hospital.internal")) as server:
        (folder / "s3" / "bucket").mkdir()
        place = server.endpoint.partition("://")[2]
        with ProxyServer(names={"s3.hospital.internal": place}) as proxy:
            names = {"PATH": path, "PYTHONPATH": str(ROOT), "PROXY": proxy.url, "KUBECONFIG": str(folder / "none")}
            yield {**base, **server.environment, **names}


def run(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # The one change: the page's proxy has the address of the test's, and nothing is sent to a cluster.
    script = script.replace("http://proxy.hospital.internal:3128", environment["PROXY"])
    script = script.replace("create configmap", "create --dry-run=client -o yaml configmap")
    command = ["bash", "-c", script]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_doctor_finds_the_endpoint_behind_the_proxy(folder: Path, environment: dict[str, str]) -> None:
    done = run(section("sh")[0], folder, environment)
    lines = {line.split(":")[0]: line for line in done.stderr.splitlines()}
    proxy = environment["PROXY"].partition("://")[2]
    assert f"s3.hospital.internal:9000 through the proxy {proxy}, CAs of AWS_CA_BUNDLE" in lines["ok       connection"]
    assert {"ok       clock", "ok       multipart"} <= set(lines)
    bare = run(section("sh")[0].replace("export AWS_CA", "export NOT_AWS_CA"), folder, environment)
    assert "from a CA that is not trusted here" in bare.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_the_config_map_and_the_overlay_are_built(folder: Path, environment: dict[str, str]) -> None:
    config_map, overlay = section("sh")[1:]
    made = run(config_map, folder, environment)
    assert made.returncode == 0, made.stderr
    assert yaml.safe_load(made.stdout)["data"]["ca.crt"] == (folder / "hospital-ca.pem").read_text()
    built = run(overlay, folder, environment)
    assert built.returncode == 0, built.stderr
    policies = [d for d in yaml.safe_load_all(built.stdout) if d["kind"] == "NetworkPolicy"]
    (storage,) = [policy for policy in policies if policy["metadata"]["name"] == "s3"]
    ports = [port["port"] for rule in storage["spec"]["egress"] for port in rule["ports"]]
    assert ports == [3128, 80]  # the proxy's, which leads to the storage, and where EKS gives out credentials
