"""The clients of Kubernetes and Ray behind a proxy, at servers whose certificate is from a CA of one's own.

The names ``*.test`` are known to the proxy alone.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import urllib3
import yaml
from kubernetes import client
from kubernetes.client import ApiException

from medfuncta_dist.doctor import ray_checks
from medfuncta_dist.doctor.check import Outcome
from medfuncta_dist.errors import ClusterError
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import call_api, connect
from medfuncta_dist.submit.backends.ray_jobs import RayJobs
from tests.certificates import Authority
from tests.cut_relay import CutRelay
from tests.plain_servers import no_settings
from tests.proxy_server import ProxyServer
from tests.unit.doctor.served import Answers, served

VERSION = dict.fromkeys(
    ("major", "minor", "platform", "buildDate", "compiler", "goVersion", "gitCommit", "gitTreeState"), ""
)
ANSWERS: Answers = {
    ("GET", "/version/"): {"gitVersion": "v1.33.1", **VERSION},
    ("GET", "/api/version"): {"version": "4", "ray_version": version("ray"), "ray_commit": "0", "session_name": "s"},
    ("GET", "/api/jobs/"): [],
}


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    for name in [*no_settings(os.environ), "RAY_AUTH_MODE", "RAY_ADDRESS", "KUBERNETES_SERVICE_HOST"]:
        monkeypatch.delenv(name, raising=False)
    return Authority(tmp_path / "authority")


@pytest.fixture
def proxy(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyServer]:
    """It leads to a server with that authority's certificate, by both names."""
    with served(ANSWERS, certificate=authority.issue("api.test", "ray.test")) as address:
        place = address.partition("://")[2]
        with ProxyServer(names={"api.test": place, "ray.test": place}) as found:
            monkeypatch.setenv("HTTPS_PROXY", found.url)
            yield found


def kubeconfig(folder: Path, server: str, **cluster: str) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": server, **cluster}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    return str(folder / "kubeconfig")


def ask_kubernetes() -> str:
    return str(call_api(client.VersionApi(connect()[0]).get_code, where="here").git_version)


@pytest.mark.parametrize("trusted_by", ["kubeconfig", "SSL_CERT_FILE"])
def test_the_api_server_is_asked_through_the_proxy(
    trusted_by: str, authority: Authority, proxy: ProxyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"certificate-authority": str(authority.bundle)} if trusted_by == "kubeconfig" else {}
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, "https://api.test:6443", **named))
    if not named:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    assert ask_kubernetes() == "v1.33.1"
    assert proxy.asked == ["CONNECT api.test:6443"]


def test_an_api_server_in_no_proxy_is_asked_directly(
    authority: Authority, proxy: ProxyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(ANSWERS, certificate=authority.issue("127.0.0.1")) as address:
        named = {"certificate-authority": str(authority.bundle)}
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, address, **named))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert ask_kubernetes() == "v1.33.1"
    assert proxy.asked == []


def test_a_certificate_or_a_proxy_that_refuses_ends_the_command_at_once(
    authority: Authority, proxy: ProxyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, "https://api.test:6443"))
    began = time.monotonic()
    with pytest.raises(ClusterError, match="certificate is not accepted") as caught:
        ask_kubernetes()
    assert "certificate-authority" in caught.value.do
    proxy.answer = 403
    with pytest.raises(ClusterError, match=r"proxy does not lead .* \(403\)") as caught:
        ask_kubernetes()
    assert "NO_PROXY" in caught.value.do
    assert time.monotonic() - began < 15


def test_a_connection_that_is_cut_while_tls_begins_is_made_again(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a load balancer whose API server starts anew."""
    with (
        served(ANSWERS, certificate=authority.issue("127.0.0.1")) as address,
        CutRelay(int(address.rpartition(":")[2])).passing() as relay,
    ):
        named = {"certificate-authority": str(authority.bundle)}
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path, f"https://127.0.0.1:{relay.port}", **named))
        relay.to_cut = 2
        assert ask_kubernetes() == "v1.33.1"
        assert relay.accepted == 3


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_server_that_keeps_cutting_tls_does_not_answer(wrapped: bool) -> None:
    """What Python itself raises has no `reason`."""

    def cut() -> None:
        error = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
        if not wrapped:
            raise urllib3.exceptions.SSLError(error)
        raise ApiException(status=0, reason="SSLError") from error

    with pytest.raises(ClusterError, match=r"the API server does not answer: .*SSL") as caught:
        call_api(cut, where="here", deadline_s=0.5)
    assert "check the network" in caught.value.do


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_ray_s_jobs_are_asked_through_the_proxy(
    variable: str, authority: Authority, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(authority.bundle))
    assert RayJobs("https://ray.test:8265").list_jobs() == []
    assert set(proxy.asked) == {"CONNECT ray.test:8265"}


def test_doctor_asks_ray_through_the_proxy(
    authority: Authority, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://ray.test:8265")
    found = ray_checks.check_jobs_api()
    assert found.state is not Outcome.FAILED
    assert version("ray") in found.what
    assert set(proxy.asked) == {"CONNECT ray.test:8265"}
