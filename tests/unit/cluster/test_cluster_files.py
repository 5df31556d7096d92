"""What a Ray node is made of: the launcher's files against Ray's own schema, the Dockerfile against a linter and the
rules that Kubernetes will hold it to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from medfuncta_dist import __version__

CLUSTER = Path(__file__).resolve().parents[3] / "cluster"
LAUNCHED = sorted(CLUSTER.glob("*.yaml"))
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


@pytest.fixture(params=LAUNCHED, ids=lambda path: path.stem)
def launched(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def test_both_kinds_of_cluster_are_there() -> None:
    assert [path.stem for path in LAUNCHED] == ["aws", "on-prem"]


def test_a_launcher_file_is_valid_for_the_installed_ray(launched: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(launched, schema)


def test_the_head_computes_nothing_and_its_dashboard_stays_on_the_machine(launched: dict[str, Any]) -> None:
    (start,) = [line for line in launched["head_start_ray_commands"] if "ray start" in line]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start


def test_no_secret_is_written_in_a_launcher_file(launched: dict[str, Any]) -> None:
    options = " ".join(launched["docker"]["run_options"])
    assert "--env-file" in options
    assert not re.search(r"(AWS_SECRET|MEDFUNCTA_SALT|RAY_AUTH_TOKEN)\S*=", options)


def test_images_are_tagged_with_our_version_and_rays(launched: dict[str, Any]) -> None:
    assert launched["docker"]["image"].endswith(f":{__version__}-ray{ray.__version__}")


def test_on_aws_only_workers_are_spot_instances() -> None:
    types = yaml.safe_load((CLUSTER / "aws.yaml").read_text())["available_node_types"]
    spot = {name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == types.keys() - {"head"}
    assert all(kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for kind in types.values())


def test_the_dockerfile_has_nothing_to_lint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_runs_as_nobody_in_particular_with_the_commit_on_it(target: str) -> None:
    (stage,) = re.findall(rf"^FROM node AS {target}\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE)[-1] == "1000"  # runAsNonRoot is checked by number
    assert 'org.opencontainers.image.revision="${COMMIT}"' in DOCKERFILE


def test_a_login_shell_finds_ray() -> None:
    """Debian's /etc/profile sets PATH anew, then reads profile.d; `ray up` runs all its commands so."""
    (home,) = re.findall(r"^ +PATH=(\S+):\$PATH$", DOCKERFILE, re.MULTILINE)
    (written,) = re.findall(r"^ +(echo .*) > /etc/profile\.d/\w+\.sh$", DOCKERFILE, re.MULTILINE)
    script = f'PATH=/usr/local/bin:/usr/bin:/bin; eval "$({written})"; echo "$PATH"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{home}:/usr/local/bin:/usr/bin:/bin"


def test_packages_come_before_the_source_and_from_the_lock() -> None:
    lock, source = DOCKERFILE.index("COPY constraints.txt"), DOCKERFILE.index("COPY medfuncta_dist medfuncta_dist")
    assert lock < DOCKERFILE.index("PIP_CONSTRAINT=constraints.txt pip install") < source


def test_everything_copied_is_let_in_and_nothing_else_is() -> None:
    allowed = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for line in copied for name in line.split()} == allowed
