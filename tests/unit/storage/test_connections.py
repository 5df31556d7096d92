"""Connections that cannot be made: each ends at once, and says which setting to mend. Real sockets, TLS and proxies."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from medfuncta_dist.errors import DeadlineError, ObjectMissingError, StorageError, UnreachableError
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.s3 import s3_client
from tests.certificates import DAY, Authority
from tests.plain_servers import answering, closed_port, dropping_port, no_settings
from tests.proxy_server import ProxyServer
from tests.unit.storage.flaky_server import Flaky, serving

ROOT = "s3://bucket/runs"
AT_ONCE_S = 20.0
"""Of 120 until the deadline; the machine may be busy."""

Case = Callable[[ExitStack, Authority], dict[str, str]]
"""Opens what a failure needs, and gives the variables that lead there."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*no_settings(os.environ), "AWS_ENDPOINT_URL_S3", "KUBERNETES_SERVICE_HOST"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(s3_client, "_opened", {})  # no client that has reached a server at the same port before


def _https(stack: ExitStack, authority: Authority, *names: str, **lifetime: object) -> str:
    certificate = authority.issue(*(names or ("127.0.0.1",)), **lifetime)  # type: ignore[arg-type]
    return f"https://127.0.0.1:{stack.enter_context(answering(certificate))[0]}"


def _http(stack: ExitStack) -> str:
    return f"http://127.0.0.1:{stack.enter_context(answering())[0]}"


def own_ca(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": _https(stack, authority)}


def other_name(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": _https(stack, authority, "s3.test"), "AWS_CA_BUNDLE": str(authority.bundle)}


def expired(stack: ExitStack, authority: Authority) -> dict[str, str]:
    url = _https(stack, authority, begins=-2 * DAY, ends=-DAY)
    return {"AWS_ENDPOINT_URL": url, "AWS_CA_BUNDLE": str(authority.bundle)}


def of_tomorrow(stack: ExitStack, authority: Authority) -> dict[str, str]:
    url = _https(stack, authority, begins=DAY, ends=2 * DAY)
    return {"AWS_ENDPOINT_URL": url, "AWS_CA_BUNDLE": str(authority.bundle)}


def no_bundle(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": _https(stack, authority), "AWS_CA_BUNDLE": "/no/such/ca.pem"}


def empty_bundle(stack: ExitStack, authority: Authority) -> dict[str, str]:
    (authority.folder / "empty").write_text("")
    return {"AWS_ENDPOINT_URL": _https(stack, authority), "SSL_CERT_FILE": str(authority.folder / "empty")}


def old_tls(stack: ExitStack, authority: Authority) -> dict[str, str]:
    server = answering(authority.issue("127.0.0.1"), ssl.TLSVersion.TLSv1)
    url = f"https://127.0.0.1:{stack.enter_context(server)[0]}"
    return {"AWS_ENDPOINT_URL": url, "AWS_CA_BUNDLE": str(authority.bundle)}


def https_to_http(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": _http(stack).replace("http:", "https:")}


def http_to_https(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": _https(stack, authority).replace("https:", "http:")}


def http_to_s3_with_tls(stack: ExitStack, authority: Authority) -> dict[str, str]:
    server = stack.enter_context(EmbeddedS3(authority.folder / "s3", authority.issue("127.0.0.1")))
    return {**server.environment, "AWS_ENDPOINT_URL": server.endpoint.replace("https:", "http:")}


def closed(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": f"https://127.0.0.1:{closed_port()}"}


def unknown_name(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": "https://no-such-host.invalid"}


def no_url(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": "storage.test:9000"}


def no_port(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": "http://127.0.0.1:99999"}


def proxy_closed(stack: ExitStack, authority: Authority) -> dict[str, str]:
    proxy = f"http://user:pass-word@127.0.0.1:{closed_port()}"
    return {"AWS_ENDPOINT_URL": "https://s3.test", "HTTPS_PROXY": proxy}


def proxy_closed_to_http(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": "http://s3.test", "HTTP_PROXY": f"127.0.0.1:{closed_port()}"}


def proxy_unknown(stack: ExitStack, authority: Authority) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": "https://s3.test", "HTTPS_PROXY": "http://no-such-proxy.invalid:3128"}


def _proxied(answer: int | None, scheme: str) -> Case:
    def case(stack: ExitStack, authority: Authority) -> dict[str, str]:
        proxy = stack.enter_context(ProxyServer(answer))
        return {"AWS_ENDPOINT_URL": f"{scheme}://s3.test", f"{scheme.upper()}_PROXY": proxy.url}

    return case


FAILURES: list[tuple[Case, str, str, int]] = [
    (own_ca, "from a CA that is not trusted here", "AWS_CA_BUNDLE .* kubernetes.ca_config_map", 1),
    (other_name, "for another name", "AWS_ENDPOINT_URL", 1),
    (expired, "has expired", "clock", 1),
    (of_tomorrow, "not valid yet", "clock", 1),
    (no_bundle, "/no/such/ca.pem cannot be used: No such file", "AWS_CA_BUNDLE", 1),
    (empty_bundle, "cannot be used: it holds no certificate", "SSL_CERT_FILE", 1),
    (old_tls, "no version of TLS that this machine accepts", "TLS 1.2", 1),
    (https_to_http, "answers without TLS", "http://", 1),
    (http_to_https, "wants TLS, but the address says http", "https://", 1),
    (http_to_s3_with_tls, "wants TLS, but the address says http", "https://", 1),
    (closed, "refuses connections", "port in AWS_ENDPOINT_URL .*kubernetes.environment", 2),
    (unknown_name, "there is no host no-such-host.invalid", "name in AWS_ENDPOINT_URL", 2),
    (no_url, "not a URL: 'storage.test:9000'", "AWS_ENDPOINT_URL", 1),
    (no_port, "not a URL: 'http://127.0.0.1:99999'", "AWS_ENDPOINT_URL", 1),
    (proxy_closed, r"the proxy 127.0.0.1:\d+ refuses", "HTTPS_PROXY .*kubernetes.proxy", 2),
    (proxy_closed_to_http, r"the proxy 127.0.0.1:\d+ refuses", "HTTP_PROXY .*kubernetes.proxy", 2),
    (proxy_unknown, "no host no-such-proxy.invalid", "HTTPS_PROXY", 2),
    (_proxied(407, "https"), "wants a user and a password", "USER:PASSWORD", 1),
    (_proxied(407, "http"), "wants a user and a password", "USER:PASSWORD", 1),
    (_proxied(403, "https"), "refuses to connect to s3.test:443", "NO_PROXY", 1),
    (_proxied(403, "http"), "refuses to connect to s3.test:80", "NO_PROXY", 1),
    (_proxied(None, "https"), "cannot reach s3.test:443", "AWS_ENDPOINT_URL", 2),
    (_proxied(None, "http"), "cannot reach s3.test:80", "AWS_ENDPOINT_URL", 2),
]
NAMES = [f"{nth}-{case.__name__}" for nth, (case, *_) in enumerate(FAILURES)]


@pytest.mark.parametrize(("case", "what", "do", "attempts"), FAILURES, ids=NAMES)
def test_a_wrong_setting_is_named_at_once(
    case: Case, what: str, do: str, attempts: int, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Callable[[ObjectStore], object]] = [  # ours, and one through s3fs
        lambda store: store.read("a"),
        lambda store: store.write("a", b"x"),
    ]
    with ExitStack() as stack:
        for name, value in case(stack, authority).items():
            monkeypatch.setenv(name, value)
        for request in requests:
            began = time.monotonic()
            with pytest.raises(UnreachableError, match=what) as caught:
                request(ObjectStore(ROOT))
            assert time.monotonic() - began < AT_ONCE_S
            assert isinstance(caught.value, StorageError)
            assert caught.value.exit_code == 1
            assert caught.match(f"(?s)do: .*{do}")
            assert f"s3://bucket/runs/a ({attempts} attempt" in caught.value.where
            assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_ca_of_ones_own_is_trusted_by_every_request(
    variable: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(authority.bundle))
    with EmbeddedS3(tmp_path / "s3", authority.issue("127.0.0.1")) as server:
        assert server.endpoint.startswith("https://")
        (tmp_path / "s3" / "bucket").mkdir()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        _use(ObjectStore(ROOT), tmp_path)


def test_a_ca_of_the_aws_configuration_is_trusted(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\nca_bundle = {authority.bundle}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with answering(authority.issue("127.0.0.1")) as (port, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
        assert ObjectStore(ROOT).read("a") == b"ok"
        ObjectStore(ROOT).write("a", b"x")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_request_goes_through_the_proxy_unless_no_proxy_names_the_host(
    scheme: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``s3.test`` is a name that the proxy alone knows."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.bundle))
    certificate = authority.issue("s3.test") if scheme == "https" else None
    with EmbeddedS3(tmp_path / "s3", certificate) as server:
        (tmp_path / "s3" / "bucket").mkdir()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://s3.test:9000")
        with ProxyServer(names={"s3.test": server.endpoint.partition("://")[2]}) as proxy:
            monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
            _use(ObjectStore(ROOT), tmp_path)
            asked = list(proxy.asked)
            monkeypatch.setenv("NO_PROXY", "s3.test")
            with pytest.raises(UnreachableError, match=r"no host s3\.test"):
                ObjectStore(ROOT).read("a")
            assert proxy.asked == asked
    if scheme == "https":
        assert set(asked) == {"CONNECT s3.test:9000"}
    else:
        assert {request.split()[0] for request in asked} >= {"GET", "PUT", "HEAD", "DELETE"}
        assert all(request.split()[1].startswith("http://s3.test:9000/bucket") for request in asked)


def test_the_password_of_a_proxy_is_sent(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering() as (port, _), ProxyServer(names={"s3.test": f"127.0.0.1:{port}"}, password="me:w/rd") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.test")
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//me:w%2Frd@"))
        assert ObjectStore(ROOT).read("a") == b"ok"
        ObjectStore(ROOT).write("a", b"x")


@pytest.mark.parametrize("proxied", [False, True])
def test_what_never_answers_is_left_after_two_attempts(proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfuncta_dist.storage.first_contact.CONNECT_TIMEOUT_S", 1.0)  # of 5: two such attempts
    with dropping_port() as port, ProxyServer(silent=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.test" if proxied else f"https://127.0.0.1:{port}")
        monkeypatch.setenv("HTTPS_PROXY", proxy.url if proxied else "")
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer" if proxied else "does not accept") as caught:
            ObjectStore(ROOT).read("a")
        assert 2 <= time.monotonic() - began < 10
        assert "(2 attempts" in caught.value.where


def test_an_outage_after_an_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same refused connection: before the first answer a wrong setting, after it a server that starts again."""
    with serving(Flaky([])) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        ObjectStore(ROOT).read("a")
    for request in (lambda store: store.read("a"), lambda store: store.write("a", b"x")):
        with pytest.raises(DeadlineError) as caught:
            request(ObjectStore(ROOT, deadline_s=6.0))
        assert int(caught.value.where.partition("(")[2].partition(" ")[0]) >= 2


def test_a_new_pod_waits_for_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfuncta_dist.storage.retry.POD_NETWORK_S", 6.0)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(UnreachableError, match="refuses") as caught:
        ObjectStore(ROOT).read("a")
    assert int(caught.value.where.partition("(")[2].partition(" ")[0]) >= 2


def test_the_credentials_service_behind_a_proxy_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A role's credentials come from another host than S3: what keeps it from being reached is named, too."""
    (tmp_path / "token").write_text("token")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{closed_port()}")
    with answering() as (port, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(UnreachableError, match="refuses connections"):
            ObjectStore(ROOT).read("a")


def _use(store: ObjectStore, folder: Path) -> None:
    """Every kind of request."""
    (folder / "local").write_bytes(b"local")
    store.write("a", b"bytes")
    store.upload(folder / "local", "b")
    assert store.read("a") == b"bytes"
    assert store.read_range("a", 1, 3) == b"yte"
    store.download("b", folder / "copy")
    assert (folder / "copy").read_bytes() == b"local"
    assert [info.path for info in store.list("")] == ["a", "b"]
    store.write_if("c", b"x", None)
    store.delete("a")
    with pytest.raises(ObjectMissingError):
        store.size("a")
