"""Why a connection could not be made: certificate, TLS, name, port or proxy; and which setting mends it.

S3 is reached by two clients, urllib3 and aiohttp, each with errors of its own. Below them lie the same few: those of
OpenSSL, of the resolver and of the socket. Those decide.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp
import urllib3
from botocore import exceptions as boto

from medfuncta_dist.storage.connection_settings import choose_proxy, describe_place

UNREACHABLE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL}
CONNECT_TIMEOUTS = (boto.ConnectTimeoutError, urllib3.exceptions.ConnectTimeoutError, aiohttp.ConnectionTimeoutError)
AT_PROXY = (boto.ProxyConnectionError, urllib3.exceptions.ProxyError, aiohttp.ClientProxyConnectionError)
TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})")
GATEWAY_STATUSES = {502, 503, 504}
WITHOUT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
"""What OpenSSL calls an answer that is not TLS."""
OTHER_TLS = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "SSLV3_ALERT_HANDSHAKE_FAILURE"}
UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
"""OpenSSL's codes for a chain that ends at no trusted CA, or at the certificate itself."""
NOT_YET_VALID, EXPIRED, OTHER_NAMES = 9, 10, {62, 64}

TRUST = (
    "set AWS_CA_BUNDLE (or SSL_CERT_FILE) to a PEM file with its CA's certificate; for pods, name a ConfigMap with "
    "that file in kubernetes.ca_config_map"
)
ENDPOINT = "AWS_ENDPOINT_URL (for pods: kubernetes.environment)"
PROXY = "HTTPS_PROXY or HTTP_PROXY (for pods: kubernetes.proxy)"
BY_PROXY = "if only a proxy leads there, set HTTPS_PROXY or HTTP_PROXY (for pods: kubernetes.proxy)"
OPEN_PORT = "open that port: firewall, and in Kubernetes the NetworkPolicy s3 (`medfuncta-dist network-policy`)"


class ConnectionFault(NamedTuple):
    """What is wrong, and what to set. ``passing``: it may be over in a moment, as a server's restart is."""

    what: str
    do: str
    passing: bool = False


def find_fault(error: BaseException, url: str, *, at_proxy: bool = False) -> ConnectionFault | None:
    """What keeps this process from connecting to ``url``; None for an error of another kind.

    ``at_proxy``: the connection to the proxy itself failed, where the error does not say so.
    """
    chain, proxy = list(causes(error)), choose_proxy(url)
    status = next(filter(None, map(proxy_status, chain)), None)
    if status is not None and proxy:
        return _refused_by_proxy(status, describe_place(proxy), describe_place(url))
    at_proxy = bool(proxy) and (at_proxy or any(isinstance(cause, AT_PROXY) for cause in chain))
    place, name = _where(url, proxy if at_proxy else None)
    for cause in chain:
        if isinstance(cause, ssl.SSLError):
            return _tls_fault(cause, place)
        if isinstance(cause, socket.gaierror):
            return _unknown_name(cause, place, name, at_proxy)
        if isinstance(cause, OSError) and cause.errno in UNREACHABLE:
            why = "refuses connections" if cause.errno == errno.ECONNREFUSED else "is on a network without a route"
            do = f"correct {PROXY}" if at_proxy else f"correct host and port in {ENDPOINT}, or start the server there"
            return ConnectionFault(f"{place} {why}", f"{do}; {BY_PROXY}" if not proxy else do, passing=True)
    if any(isinstance(cause, CONNECT_TIMEOUTS) for cause in chain):
        what = f"{place} does not accept connections: nothing came back"
        return ConnectionFault(what, f"correct {PROXY if at_proxy else ENDPOINT}, or {OPEN_PORT}", passing=True)
    return None


def without_answer(url: str) -> ConnectionFault:
    """The fault of a connection that is open, but over which no tunnel or no TLS comes into being."""
    proxy = choose_proxy(url)
    place, _ = _where(url, proxy)
    do = f"correct {PROXY}, or name the host in NO_PROXY" if proxy else f"correct host and port in {ENDPOINT}"
    return ConnectionFault(f"{place} accepts connections, but does not answer", do, passing=True)


def only_with_tls(url: str) -> ConnectionFault:
    """The fault of an http:// address whose server wants TLS."""
    return ConnectionFault(
        f"{describe_place(url)} wants TLS, but the address says http", f"write https:// in {ENDPOINT}"
    )


def no_address(text: str) -> ConnectionFault:
    """The fault of an endpoint that is no URL."""
    do = f"write https://HOST or https://HOST:PORT in {ENDPOINT}"
    return ConnectionFault(f"the storage's address is not a URL: {text!r}", do)


def failed_url(error: BaseException) -> str:
    """The URL that a request of botocore's went to; it may be another service's, which gives credentials."""
    wrapped = (getattr(cause, "kwargs", None) for cause in causes(error))
    return next((str(kwargs["endpoint_url"]) for kwargs in wrapped if kwargs and kwargs.get("endpoint_url")), "")


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything below it, as the two clients wrap it: each once."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        found = todo.pop(0)
        if not isinstance(found, BaseException) or found in seen:
            continue
        seen.append(found)
        yield found
        wrapped = getattr(found, "kwargs", None)
        todo += [getattr(found, name, None) for name in ("reason", "original_error", "os_error", "__cause__")]
        todo += [wrapped.get("error") if isinstance(wrapped, dict) else None, found.__context__, *found.args]


def _where(url: str, proxy: str | None) -> tuple[str, str]:
    """The place that is at fault, and its name alone."""
    place = describe_place(proxy or url)
    return (f"the proxy {place}" if proxy else place), place.rpartition(":")[0]


def proxy_status(cause: BaseException) -> int | None:
    """The status with which a proxy refused; None for an error that is not a proxy's answer."""
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return cause.status
    if isinstance(cause, boto.ClientError):
        return _answered_by_proxy(cause)
    found = TUNNEL_REFUSED.search(str(cause)) if isinstance(cause, OSError) else None
    return int(found[1]) if found else None


def _answered_by_proxy(answer: boto.ClientError) -> int | None:
    """The status of an answer to a plain http:// request that is not S3's: without a code, as S3's to a HEAD."""
    status = int(answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    in_words = not str(answer.response.get("Error", {}).get("Code", "")).isdigit()
    if status == 407:
        return status
    if in_words or answer.operation_name.startswith("Head"):
        return None
    return status if status == 403 or status in GATEWAY_STATUSES else None


def _refused_by_proxy(status: int, proxy: str, place: str) -> ConnectionFault:
    if status == 407:
        do = (
            "write http://USER:PASSWORD@HOST:PORT in HTTPS_PROXY or HTTP_PROXY (for pods: in kubernetes.storage_secret)"
        )
        return ConnectionFault(f"the proxy {proxy} wants a user and a password (407)", do)
    if status >= 500:
        do = f"correct host and port in {ENDPOINT}; if no proxy leads there, name the host in NO_PROXY"
        return ConnectionFault(f"the proxy {proxy} cannot reach {place} ({status})", do, passing=True)
    do = "let the proxy allow it, or name the host in NO_PROXY (for pods: kubernetes.proxy.no_proxy)"
    return ConnectionFault(f"the proxy {proxy} refuses to connect to {place} ({status})", do)


def _tls_fault(error: ssl.SSLError, place: str) -> ConnectionFault | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate_fault(error, place)
    if error.reason in WITHOUT_TLS:
        return ConnectionFault(f"{place} answers without TLS", f"write http:// in {ENDPOINT}, or its port for TLS")
    if error.reason in OTHER_TLS:
        what = f"{place} speaks no version of TLS that this machine accepts ({error.reason})"
        return ConnectionFault(what, "let the server, or the gateway before it, speak TLS 1.2 or later")
    return None


def _certificate_fault(error: ssl.SSLCertVerificationError, place: str) -> ConnectionFault:
    code = error.verify_code
    if code in UNKNOWN_ISSUER:
        return ConnectionFault(f"the certificate of {place} is from a CA that is not trusted here", TRUST)
    if code in OTHER_NAMES:
        do = f"use a name that the certificate holds in {ENDPOINT}, or have it issued for this one"
        return ConnectionFault(f"the certificate of {place} is for another name", do)
    if code in (EXPIRED, NOT_YET_VALID):
        why = "has expired" if code == EXPIRED else "is not valid yet"
        do = "renew it, or set this machine's clock if that is wrong (`medfuncta-dist doctor` compares it)"
        return ConnectionFault(f"the certificate of {place} {why}", do)
    return ConnectionFault(f"the certificate of {place} is refused: {error.verify_message}", TRUST)


def _unknown_name(error: socket.gaierror, place: str, name: str, at_proxy: bool) -> ConnectionFault:
    if error.errno == socket.EAI_AGAIN:
        do = "check this machine's name server (in Kubernetes: the NetworkPolicy dns)"
        return ConnectionFault(f"no name server answers for {name}", f"{do}; {BY_PROXY}", passing=True)
    setting = PROXY if at_proxy else ENDPOINT
    do = f"correct the name in {setting}" + ("" if at_proxy else f"; {BY_PROXY}")
    return ConnectionFault(f"there is no host {name}: its name is unknown here", do, passing=True)
