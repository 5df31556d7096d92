"""Checks of the Ray cluster that RAY_ADDRESS or RAY_API_SERVER_ADDRESS names, over HTTP, as importing Ray is slow."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from importlib.metadata import version

from medfuncta_dist.doctor.check import Check, Finding, failed, passed, skipped, warned

TIMEOUT_S = 10.0


def list_ray_checks() -> list[Check]:
    """The cluster answers, has the installed version of Ray, and requires a token."""
    return [Check("ray cluster", check_connection), Check("ray jobs", check_jobs_api)]


def check_connection() -> Finding:
    """A process listens at RAY_ADDRESS."""
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        return skipped("RAY_ADDRESS is not set: stages start Ray on this machine")
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return skipped(f"RAY_ADDRESS is {address!r}: Ray finds the cluster itself")
    try:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S).close()
    except OSError as error:
        return failed(
            f"nothing answers at {address}: {error}",
            "check that the head is running (`ray status`), or unset RAY_ADDRESS",
        )
    if os.environ.get("RAY_AUTH_MODE") == "token" and not _read_token():
        return failed(
            "RAY_AUTH_MODE is token, but no token is set",
            "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it",
        )
    return passed(address)


def check_jobs_api() -> Finding:
    """The Jobs API has the installed version of Ray, and requires a token: without one, anyone could run code."""
    address = os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is None:
        return skipped("RAY_API_SERVER_ADDRESS is not set: --backend ray uses the dashboard on this machine")
    anonymous, _ = _read_version(address, None)
    status, found = _read_version(address, _read_token())
    if status in (401, 403):
        return failed("the token is missing or wrong", "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's")
    if status != 200:
        return failed(
            f"{address} answers {status}", "check that the head's dashboard is running, and that this is its address"
        )
    if found != version("ray"):
        return failed(
            f"Ray {found}, but {version('ray')} is installed here",
            "use the same version of Ray here and on the cluster",
        )
    if anonymous == 200:
        return warned(
            f"Ray {found}, open to anyone who can reach it",
            "start it with RAY_AUTH_MODE=token, or keep its port private",
        )
    return passed(f"Ray {found}, requires a token")


def _read_version(address: str, token: str | None) -> tuple[int, str]:
    """HTTP status, and Ray's version; status 0 if there is no usable answer."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=headers)
        # An opener of its own: the shared one keeps the proxies that were set when it was first used.
        with urllib.request.build_opener().open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, str(json.loads(answer.read(2**16))["ray_version"])
    except urllib.error.HTTPError as refusal:
        return refusal.code, ""
    except (urllib.error.URLError, ValueError, KeyError, OSError):
        return 0, ""


def _read_token() -> str | None:
    given = os.environ.get("RAY_AUTH_TOKEN")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    if given is None and os.path.isfile(path):
        with open(path) as file:
            given = file.read()
    return given.strip() or None if given else None
