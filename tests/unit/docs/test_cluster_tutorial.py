"""docs/tutorials/cluster.md, followed against a real S3 server and an API server that admits what Kubernetes would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from tests.api_server import ApiServer
from tests.unit.docs.pages import follow

PAGE = "docs/tutorials/cluster.md"


@pytest.mark.timeout(300)
def test_the_tutorial_submits_watches_cancels_and_resumes(
    tmp_path: Path, server: ApiServer, s3_server: EmbeddedS3
) -> None:
    for bucket in ("my-bucket", "my-archive"):
        s3_server.create_bucket(bucket)
    done = follow(PAGE, tmp_path, dict(os.environ))
    doctor, *others = done.values()
    assert "checks:" in doctor.stdout  # what it finds is this machine's affair
    for line, block in list(done.items())[1:]:
        assert block.returncode == 0, f"{PAGE}:{line}\n{block.stderr}"
    dry_run, submitted, watched, ended = (block.stdout for block in others)
    assert dry_run.count("kind: RayJob") == 4
    assert "my-xrays-pack-1: submitted" in submitted
    assert "my-xrays-pack-1" in watched
    assert "my-xrays-pack-2: submitted" in ended
