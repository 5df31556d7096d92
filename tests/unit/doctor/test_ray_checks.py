"""Checks of a Ray cluster's ports, against an HTTP server that answers as its dashboard does."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from medfuncta_dist.doctor import ray_checks
from medfuncta_dist.doctor.check import Outcome
from tests.unit.doctor.served import served, when

VERSION = ("GET", "/api/version")
HERE = {"ray_version": version("ray")}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_no_address_is_no_fault() -> None:
    assert ray_checks.check_connection().state is ray_checks.check_jobs_api().state is Outcome.SKIPPED


def test_an_address_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert ray_checks.check_connection().state is Outcome.FAILED


@pytest.mark.parametrize(
    ("answer", "token", "state", "word"),
    [
        (when("secret", HERE), "secret", Outcome.PASSED, "requires a token"),
        (when("secret", HERE), "other", Outcome.FAILED, "token"),
        (HERE, "secret", Outcome.WARNED, "open to anyone"),
        (when("secret", {"ray_version": "2.1.0"}), "secret", Outcome.FAILED, "2.1.0"),
        (500, "secret", Outcome.FAILED, "500"),
    ],
)
def test_the_jobs_api(answer: object, token: str, state: Outcome, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served({VERSION: answer}) as address:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        found = ray_checks.check_jobs_api()
        monkeypatch.setenv("RAY_ADDRESS", address.removeprefix("http://"))
        assert ray_checks.check_connection().state is Outcome.PASSED
    assert found.state is state
    assert word in found.what
    assert (found.do == "") == (state is Outcome.PASSED)
