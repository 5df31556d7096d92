"""The registry: every name opens a backend of that name, and opening one connects to nothing."""

from __future__ import annotations

import pytest

from medfuncta_dist.submit.backends.backend import BackendOptions
from medfuncta_dist.submit.backends.registry import BACKENDS, BackendName, open_backend


@pytest.mark.parametrize("name", BackendName)
def test_every_name_opens_the_backend_that_records_this_name(name, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    backend = open_backend(name, BackendOptions(address="http://127.0.0.1:9", context="none", namespace="team"))
    assert backend.name == name
    assert isinstance(backend.runs_workflows, bool)


def test_every_name_has_a_class():
    assert set(BACKENDS) == set(BackendName)


def test_options_reach_the_backend():
    ray = open_backend(BackendName.RAY, BackendOptions(address="http://127.0.0.1:9"))
    assert ray.address == "http://127.0.0.1:9"
