from __future__ import annotations

import pytest
import ray

from medfuncta_dist import __version__
from medfuncta_dist.submit.manifest.container_image import (
    choose_image,
    choose_ray_version,
    names_registry,
    parse_package_version,
    parse_ray_version,
)
from tests.unit.submit.manifests import run_file


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("medfuncta-dist:0.1.0-ray2.60.0", "2.60.0"),
        ("registry:5000/a/medfuncta-dist:0.1.0-ray2.60.0-cpu", "2.60.0"),
        ("x:ray-2.59.1", "2.59.1"),
        ("x:2.59.1", None),  # perhaps the image's own version
        ("rayproject/ray:2.60.0-py311-gpu", "2.60.0"),
        ("docker.io/rayproject/ray-ml:2.60.0", "2.60.0"),
        ("x:latest", None),
        ("x:0.1.0-array2.60.0", None),
        ("registry:5000/medfuncta-dist", None),
        ("medfuncta-dist", None),
        ("medfuncta-dist@sha256:" + "0" * 64, None),
        ("medfuncta-dist:0.1.0-ray2.60.0@sha256:" + "0" * 64, "2.60.0"),
    ],
)
def test_a_tag_tells_rays_version_or_does_not(name, version):
    assert parse_ray_version(name) == version


def test_the_version_is_the_installed_ones_unless_the_run_file_says_another():
    assert choose_ray_version(run_file().kubernetes) == ray.__version__
    assert choose_ray_version(run_file("kubernetes.ray_version=2.55.1").kubernetes) == "2.55.1"


def test_the_default_image_names_both_versions():
    kubernetes = run_file().kubernetes
    assert choose_image(kubernetes, gpus=True) == f"medfuncta-dist:{__version__}-ray{ray.__version__}"
    assert choose_image(kubernetes, gpus=False) == choose_image(kubernetes, gpus=True) + "-cpu"
    assert parse_ray_version(choose_image(kubernetes, gpus=False)) == ray.__version__


def test_one_image_serves_all_unless_two_are_given():
    one = run_file("kubernetes.image=a:1").kubernetes
    two = run_file("kubernetes.image=a:1", "kubernetes.cpu_image=b:1").kubernetes
    assert [choose_image(k, gpus=g) for k in (one, two) for g in (True, False)] == ["a:1", "a:1", "a:1", "b:1"]


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("medfuncta-dist:0.1.0-ray2.60.0", "0.1.0"),
        ("registry:5000/a/medfuncta-dist:v1.2.3", "1.2.3"),
        ("a/medfuncta:1.2.3.dev4-cpu", "1.2.3.dev4"),
        ("x:1.2.3-ray2.60.0", "1.2.3"),
        ("x:1.2.3", None),  # the version of what x is
        ("rayproject/ray:2.60.0-py311", None),
        ("medfuncta-dist:latest", None),
        ("medfuncta-dist:1.2.34567beef", None),
        ("registry:5000/medfuncta-dist", None),
        ("medfuncta-dist@sha256:" + "0" * 64, None),
        ("medfuncta-dist:1.2.3@sha256:" + "0" * 64, "1.2.3"),
    ],
)
def test_a_tag_tells_this_packages_version_or_does_not(name, version):
    assert parse_package_version(name) == version


def test_a_registry_is_what_container_engines_take_for_one():
    assert all(
        names_registry(f"{host}/x:1") for host in ("registry.example", "registry:5000", "localhost", "[::1]:5000")
    )
    assert not any(names_registry(name) for name in ("x", "x:1", "team/x", "team/tools/x:1", "x.y"))
