"""What connections of this process trust, and what they go through: the CA bundle and the proxy of its environment."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from botocore.httpsession import create_urllib3_context, get_cert_path
from botocore.utils import get_environ_proxies

from medfuncta_dist.errors import UnreachableError

BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a PEM file of CAs, first ones first: the AWS tools' own, that of Python's requests, OpenSSL's."""
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
DEFAULT_PORTS = {"http": 80, "https": 443}


class Bundle(NamedTuple):
    """A PEM file of trusted CAs, and the variable that names it; "" for the list that comes with Python's packages."""

    path: str
    variable: str


def connection_variables(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The variables that decide about connections, sorted: a client that was opened under others is another one."""
    named = {*BUNDLES, *PROXIES, *map(str.lower, PROXIES), "ALL_PROXY", "all_proxy"}
    return tuple(sorted((k, v) for k, v in environment.items() if k in named or k.startswith("AWS_")))


def choose_bundle(configured: str | None = None) -> Bundle:
    """The CAs to trust. ``configured``: what the AWS configuration file says, which counts after AWS_CA_BUNDLE."""
    first, *others = BUNDLES
    if os.environ.get(first):
        return Bundle(os.environ[first], first)
    if configured:
        return Bundle(configured, "ca_bundle of the AWS configuration")
    for variable in others:
        if os.environ.get(variable):
            return Bundle(os.environ[variable], variable)
    return Bundle(str(get_cert_path(True)), "")


def tls_context(bundle: Bundle) -> ssl.SSLContext:
    """How TLS connections are made, the same for both of our S3 clients. UnreachableError for an unusable bundle."""
    context: ssl.SSLContext = create_urllib3_context()
    context.check_hostname = True
    try:
        context.load_verify_locations(bundle.path)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "it holds no certificate"
        what = f"the CA bundle {bundle.path} cannot be used: {why}"
        raise UnreachableError(what, do=f"set {bundle.variable} to a PEM file with the CA's certificate") from error
    return context


def choose_proxy(url: str) -> str | None:
    """The proxy for a URL, by HTTPS_PROXY or HTTP_PROXY (or ALL_PROXY) and NO_PROXY."""
    proxies = get_environ_proxies(url)
    found = proxies.get(urlsplit(url).scheme) or proxies.get("all")
    return found if not found or "://" in found else f"http://{found}"


def describe_place(url: str) -> str:
    """Host and port of a URL, without the user and password that a proxy's may hold."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{port_of(parts)}"


def port_of(url: SplitResult) -> int:
    """The port of a URL, given or by its scheme."""
    return url.port or DEFAULT_PORTS.get(url.scheme, 80)
