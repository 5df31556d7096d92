"""What is said of an image that nodes may not find, or that has another version of this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medfuncta_dist import __version__
from medfuncta_dist.submit.manifest.container_image import choose_image
from medfuncta_dist.submit.rules.image_warnings import Image, find_doubts, list_images, warn_of_images
from tests.unit.submit.manifests import RUN, run_file

OURS = f"{__version__}-ray2.60.0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"registry.example/medfuncta-dist:{OURS}", []),
        (f"registry.example:5000/team/medfuncta-dist:{OURS}-cpu", []),
        (f"localhost/medfuncta-dist:{OURS}", []),
        ("registry.example/medfuncta-dist@sha256:" + "0" * 64, []),
        ("registry.example/platform:9.9.9", []),
        (f"medfuncta-dist:{OURS}", ["names no registry"]),
        (f"team/medfuncta-dist:{OURS}", ["names no registry"]),
        ("registry.example/medfuncta-dist:0.0.9-ray2.60.0", ["names version 0.0.9"]),
        ("registry.example/platform:0.0.9-ray2.60.0", ["names version 0.0.9"]),
        ("registry.example/medfuncta-dist:v0.0.9rc1", ["names version 0.0.9rc1"]),
        ("medfuncta-dist:0.0.9-ray2.60.0", ["names no registry", "names version 0.0.9"]),
    ],
)
def test_a_name_without_registry_or_of_another_version_is_doubtful(name: str, words: list[str]) -> None:
    doubts = list(find_doubts(Image(name)))
    assert [word in doubt.what for word, doubt in zip(words, doubts, strict=True)] == [True] * len(words)
    assert all(name in doubt.what and doubt.do for doubt in doubts)


def test_an_image_that_is_never_pulled_needs_no_registry() -> None:
    assert warn_of_images([Image(f"medfuncta-dist:{OURS}", pulled=False)]) == []
    assert len(warn_of_images([Image("medfuncta-dist:0.0.9-ray2.60.0", pulled=False)])) == 1
    assert list_images(run_file("kubernetes.overlays=[local]"), [("pack",)])[0].pulled is False
    assert list_images(run_file(), [("pack",)], ["local"])[0].pulled is False


def test_each_image_of_the_jobs_is_looked_at_once() -> None:
    run = run_file()
    names = [choose_image(run.kubernetes, gpus=gpus) for gpus in (False, True)]
    jobs = [("pack",), ("train",), ("fit",), ("evaluate",)]
    assert list_images(run, jobs) == [Image(name) for name in names]
    assert list_images(run, [("pack", "train")]) == [Image(names[1])]


def test_submit_warns_and_submits_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**yaml.safe_load(RUN), "storage": str(tmp_path / "storage")}))
    command = [
        sys.executable,
        "-m",
        "medfuncta_dist.cli.app",
        "submit",
        str(tmp_path / "run.yaml"),
        "train",
        "--dry-run",
        "--set",
        f"kubernetes.claims.x={tmp_path}",
    ]
    for image, words in [
        ("medfuncta-dist:0.0.9-ray2.60.0", ["names no registry", f"{__version__} is installed here"]),
        (f"registry.example/medfuncta-dist:{OURS}", []),
    ]:
        done = subprocess.run([*command, "--set", f"kubernetes.image={image}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"image: {image}" in done.stdout
        warnings = [line for line in done.stderr.splitlines() if line.startswith("warning:") and image in line]
        assert [word in line for word, line in zip(words, warnings, strict=True)] == [True] * len(words)
