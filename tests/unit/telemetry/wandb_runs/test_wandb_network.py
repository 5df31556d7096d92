"""Weights & Biases behind a proxy, at a server whose certificate is from a CA of one's own: its real client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.plain_servers import answering, no_settings
from tests.proxy_server import ProxyServer

SCRIPT = """
import sys
import wandb

try:
    wandb.init(project="p", dir=sys.argv[1], mode="online", settings=wandb.Settings(silent=True, init_timeout=10))
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("trusted", [True, False])
def test_the_client_reads_the_proxy_and_the_cas_of_the_environment(trusted: bool, tmp_path: Path) -> None:
    """The server is none of theirs, so the run does not begin; what counts is that requests reach it, over TLS."""
    authority = Authority(tmp_path / "authority")
    with (
        answering(authority.issue("wandb.test")) as (port, requests),
        ProxyServer(names={"wandb.test": f"127.0.0.1:{port}"}) as proxy,
    ):
        left = set(no_settings(os.environ))
        environment = {name: value for name, value in os.environ.items() if name not in left}
        environment |= {"WANDB_BASE_URL": "https://wandb.test", "WANDB_API_KEY": "0" * 40, "HTTPS_PROXY": proxy.url}
        if trusted:
            environment |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(authority.bundle))
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=90, check=True)
        assert set(proxy.asked) == {"CONNECT wandb.test:443"}
        assert bool(requests) is trusted
