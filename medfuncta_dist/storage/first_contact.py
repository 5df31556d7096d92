"""The first connection to a server, which tells at once, and in words, when a setting is wrong."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url

from medfuncta_dist.errors import UnreachableError
from medfuncta_dist.storage.connection_faults import ConnectionFault, find_fault, without_answer
from medfuncta_dist.storage.connection_settings import Bundle, choose_proxy, port_of, tls_context

CONNECT_TIMEOUT_S, HEADERS_TIMEOUT_S, TLS_PROBE_S = 5.0, 10.0, 2.0


def try_connection(url: str, bundle: Bundle, seconds: float = CONNECT_TIMEOUT_S) -> None:
    """Connect to a URL's host, through the proxy and with TLS where they are set.

    Nothing is sent but what a proxy must hear: CONNECT, or for http:// a HEAD. Raises UnreachableError, which says what
    to mend.
    """
    connection = _connection(url, bundle, min(CONNECT_TIMEOUT_S, seconds))
    try:
        connection.connect()
        if connection.proxy is not None and connection.proxy_is_forwarding:
            connection.request("HEAD", url, headers=_proxy_headers(urlsplit(choose_proxy(url) or "")))
            connection.getresponse()
    except TimeoutError as error:
        raise unreachable(without_answer(url)) from error
    except Exception as error:
        at_proxy = connection.proxy is not None and not connection.has_connected_to_proxy
        if (fault := find_fault(error, url, at_proxy=at_proxy)) is None:
            raise
        raise unreachable(fault) from error
    finally:
        connection.close()


def fetch_headers(url: str, bundle: Bundle) -> Mapping[str, str]:
    """The headers of the answer to a HEAD, whatever its status."""
    try_connection(url, bundle)
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=HEADERS_TIMEOUT_S)
    with open_pool(url, bundle) as pool:
        return pool.request("HEAD", url, redirect=False, retries=False, timeout=timeout).headers


def speaks_tls(url: str) -> bool:
    """Whether the server at an http:// URL answers a TLS handshake. Nothing else is sent to it."""
    parts = urlsplit(url)
    if parts.scheme != "http" or choose_proxy(url):
        return False
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((parts.hostname or "", port_of(parts)), TLS_PROBE_S) as plain:
            context.wrap_socket(plain).close()
    except OSError:
        return False
    return True


def open_pool(url: str, bundle: Bundle, **options: Any) -> urllib3.PoolManager:
    """Connections for a URL: with TLS as ``bundle`` says, through the proxy of the environment if there is one."""
    proxy = choose_proxy(url)
    if "https" in {urlsplit(url).scheme, urlsplit(proxy or "").scheme}:
        options["ssl_context"] = tls_context(bundle)
    if proxy is None:
        return urllib3.PoolManager(**options)
    return urllib3.ProxyManager(proxy, proxy_headers=_proxy_headers(urlsplit(proxy)), **options)


def unreachable(fault: ConnectionFault) -> UnreachableError:
    """The error of a fault."""
    error = UnreachableError(fault.what, do=fault.do)
    error.passing = fault.passing
    return error


def _connection(url: str, bundle: Bundle, seconds: float) -> HTTPConnection:
    target, proxy = urlsplit(url), choose_proxy(url)
    via = urlsplit(proxy or url)
    place = (via.hostname or "", port_of(via))
    if (
        proxy is None or via.scheme == "https"
    ):  # of a proxy with TLS, only the way to it: the first request tells the rest
        return _secure(*place, bundle, seconds) if via.scheme == "https" else HTTPConnection(*place, timeout=seconds)
    if target.scheme == "http":
        return HTTPConnection(*place, timeout=seconds, proxy=parse_url(proxy))
    tunnelled = _secure(*place, bundle, seconds, proxy=parse_url(proxy))
    tunnelled.set_tunnel(target.hostname or "", port_of(target), _proxy_headers(via), scheme="http")
    return tunnelled


def _secure(host: str, port: int, bundle: Bundle, seconds: float, **options: Any) -> HTTPSConnection:
    return HTTPSConnection(host, port, timeout=seconds, ssl_context=tls_context(bundle), **options)


def _proxy_headers(proxy: SplitResult) -> Mapping[str, str] | None:
    if not proxy.username:
        return None
    return urllib3.make_headers(proxy_basic_auth=f"{unquote(proxy.username)}:{unquote(proxy.password or '')}")
