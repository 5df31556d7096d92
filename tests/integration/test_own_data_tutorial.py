"""docs/tutorials/own-data.md, followed from its first line to its last, as a reader would."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.docs.pages import follow

PAGE = "docs/tutorials/own-data.md"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_leads_from_images_to_latents(tmp_path: Path, ray_cluster: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    token = {"RAY_AUTH_TOKEN_PATH": str(Path.home() / ".ray" / "auth_token")}  # Ray's, which another home lacks
    done = follow(PAGE, tmp_path, os.environ | {"HOME": str(home), "WANDB_MODE": "offline"} | token)
    for line, block in done.items():
        assert block.returncode == 0, f"{PAGE}:{line}\n{block.stderr}"
    said = "\n".join(block.stdout for block in done.values())
    found = re.search(r"^100 scans, mean PSNR ([\d.]+) dB$", said, re.MULTILINE)
    assert found, said
    assert float(found[1]) > 25
    assert Image.open(tmp_path / "scan-007-again.png").size == (64, 64)
    assert (tmp_path / "my-storage/runs/my-scans/report/report.html").stat().st_size > 10_000
    assert (home / ".medfuncta" / "my-scans" / "mapping.sqlite").exists()
