"""The build context of the image: one Dockerfile with the clone's, the pins' versions in the names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from medfuncta_dist.config.load import parse
from medfuncta_dist.deploy.image_context import adapt_dockerfile, write_image_context
from medfuncta_dist.deploy.manifests_folder import write_manifests
from medfuncta_dist.deploy.own_wheel import build_own_wheel
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest.container_image import choose_image
from tests.image_steps import instructions
from tests.unit.docs.pages import ROOT, blocks

CLONES = ROOT / "cluster" / "Dockerfile"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("context")
    write_image_context(str(folder), "registry.example/team", force=False)
    return folder


def test_only_the_stage_that_builds_the_wheel_differs(context: Path) -> None:
    here, written = instructions(CLONES), instructions(context / "Dockerfile")
    wheel = build_own_wheel()[0]
    assert list(written) == list(here)
    assert written.pop("wheel") == [("FROM", "scratch AS wheel"), ("COPY", f"{wheel} /wheels/")]
    here.pop("wheel")
    commit = re.compile(r"^COMMIT=\S+$")
    for stage, steps in here.items():
        assert [(word, commit.sub("COMMIT=", rest)) for word, rest in written[stage]] == [
            (word, commit.sub("COMMIT=", rest)) for word, rest in steps
        ], stage


def test_all_that_it_copies_is_there_and_is_let_in(context: Path) -> None:
    text = (context / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()}
    allowed = {line[1:] for line in (context / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied == allowed == {path.name for path in context.iterdir()} - {"Dockerfile", ".dockerignore"}


def test_the_written_dockerfile_has_nothing_to_lint(context: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, context / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_code_on_the_image_is_told_where_it_is_known() -> None:
    text = CLONES.read_text()
    assert "ARG COMMIT=abc1234\n" in adapt_dockerfile(text, "x.whl", [], "abc1234")
    assert "ARG COMMIT=unknown\n" in adapt_dockerfile(text, "x.whl", [], None)


def test_names_are_those_that_submission_chooses(tmp_path: Path) -> None:
    images = write_image_context(str(tmp_path), None, force=False)["images"]
    kubernetes = parse("{name: x, storage: s3://bucket/x, data: {source: 's3://a/*.png', shape: [8, 8]}}").kubernetes
    assert images == {"cuda": choose_image(kubernetes, gpus=True), "cpu": choose_image(kubernetes, gpus=False)}


def test_where_another_ray_is_installed_than_the_images_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "kubernetes.ray_version" not in " ".join(write_image_context(str(tmp_path), None, force=False)["said"])
    monkeypatch.setattr("medfuncta_dist.deploy.image_context.version", lambda name: "9.9.9")
    said = " ".join(write_image_context(str(tmp_path), None, force=False)["said"])
    assert "Ray 9.9.9 is installed here" in said
    assert "set kubernetes.ray_version: 2." in said


@pytest.mark.parametrize(
    "registry", ["https://registry.example", "registry.example/a:tag", "a b", "registry.example//x", ""]
)
def test_a_registry_that_no_name_can_begin_with_is_refused(registry: str, tmp_path: Path) -> None:
    with pytest.raises(RunFileError) as refused:
        write_image_context(str(tmp_path), registry, force=False)
    assert refused.value.where == "--registry"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("registry", ["localhost:5000", "registry.example:443/team/tools/", "team"])
def test_other_registries_begin_the_names(registry: str, tmp_path: Path) -> None:
    images = write_image_context(str(tmp_path), registry, force=False)["images"]
    assert all(name.startswith(f"{registry.rstrip('/')}/medfuncta-dist:") for name in images.values())


def test_the_page_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the numbers of files, which grow with the documentation."""
    monkeypatch.chdir(tmp_path)
    said = [
        *write_manifests("medfuncta", docs=True, force=False)["said"],
        *write_image_context("image", "my-registry.example/team", force=False)["said"],
    ]
    shown = [
        b.text for b in blocks(ROOT / "docs/submitting.md") if "medfuncta-dist 0." in b.text or "docker build" in b.text
    ]
    assert without_numbers("".join(shown)) == without_numbers("\n".join([*said, ""]))


def without_numbers(text: str) -> str:
    return re.sub(r"\d+ (files|new|replaced|as they were)", r"N \1", text)
