"""Commands in the pages for operators: they parse, and the files they name are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from medfuncta_dist.config.load import load
from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.rules.validate_manifest import validate
from tests.unit.docs.pages import ours, parse

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "docs" / "operations.md",
    ROOT / "docs" / "acceptance.md",
    ROOT / "docs" / "submitting.md",
    ROOT / "README.md",
    ROOT / "k8s" / "README.md",
]
SCRIPT = ROOT / "k8s" / "acceptance.sh"
APPLIED = re.compile(r"kubectl (?:kustomize|apply -k) medfuncta/(k8s/\S+)")
"""Overlays below the folder that `medfuncta-dist manifests medfuncta` writes."""
OURS = re.compile(r"^\s*(?:\S+=\S+ )*(medfuncta-dist .*?)(?:\s+#.*)?$", re.MULTILINE)


def commands() -> list[tuple[str, ...]]:
    found = OURS.findall(SCRIPT.read_text())
    return sorted({tuple(shlex.split(command.split(" >")[0].split(" || ")[0])[1:]) for command in found})


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_a_command_of_the_acceptance_script_parses(arguments: tuple[str, ...]) -> None:
    parse(arguments)


def test_pages_and_script_have_commands_of_ours() -> None:
    assert {"docs/operations.md", "docs/submitting.md", "README.md"} <= {page for page, _ in ours()}
    assert commands()


def test_files_that_commands_name_are_there() -> None:
    for page in filter(Path.exists, PAGES):
        for name in re.findall(r"(?<![\w/.-])((?:jobs|k8s|cluster|benchmarks|docs)/[\w./-]+\w)", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_every_overlay_that_a_page_applies_builds() -> None:
    named = {name for page in filter(Path.exists, PAGES) for name in APPLIED.findall(page.read_text())}
    assert named
    for name in named:
        done = subprocess.run(["kubectl", "kustomize", ROOT / name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "alerts.yaml").read_text())
    alerts = {rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"]}
    assert alerts == set(re.findall(r"^\| `(\w+)`", PAGES[0].read_text().split("## Alerts")[1], re.MULTILINE))


def test_the_acceptance_script_is_a_script_that_says_how_it_is_used() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    done = subprocess.run(
        [SCRIPT], env={"STORAGE": "s3://bucket/x", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "k8s/acceptance.sh all" in done.stdout


def test_the_acceptance_run_is_valid_in_every_stage(tmp_path: Path) -> None:
    text = SCRIPT.read_text()
    body = text.split("<<YAML\n")[1].split("YAML\n")[0]
    values = {"$1": "acceptance-calm", "$STORAGE": "s3://bucket/x", "$source": "s3://bucket/x/archive/beats.csv"}
    values |= {"$steps": "2000", "${WORKERS:-2}": "2", "${GPUS:-1}": "1", "$namespace": "medfuncta"}
    values |= {"$overlays": "gpu,kueue"}
    for name, value in values.items():
        body = body.replace(name, value)
    file = tmp_path / "run.yaml"
    file.write_text(body)
    run = load(str(file))
    assert run.kubernetes.overlays == ["gpu", "kueue"]
    base = load_base(run.kubernetes.overlays)
    for stage in STAGES:
        assert validate(render(Submission(run, (stage,), 1, f"{run.name}-{stage}-1", "0" * 40), base)) == []


def test_the_acceptance_script_disturbs_the_job_that_trains(tmp_path: Path) -> None:
    """The job that packed before it is still there, with its workload, and maybe its pods."""
    kubectl = tmp_path / "kubectl"
    listed = [f"workload.kueue.x-k8s.io/rayjob-acceptance-suspend-{stage}-1-a1b2c" for stage in ("pack", "train")]
    # Pods are there until the workload that trains was deactivated.
    kubectl.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tmp_path}/asked\n'
        'case "$*" in\n'
        f"  *workloads*) printf '%s\\n' {' '.join(listed)} ;;\n"
        f"  *pods*stage=train*) grep -q 'patch.*train-1.*false' {tmp_path}/asked || echo pod/head ;;\n"
        "  *pods*) echo pod/head-that-packed ;;\n"
        "esac\n"
    )
    for name in ("medfuncta-dist", "aws"):
        (tmp_path / name).write_text("#!/bin/sh\necho done\n")
    for tool in tmp_path.iterdir():
        tool.chmod(0o755)
    environment = {"STORAGE": "s3://bucket/x", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([SCRIPT, "preempt"], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    patched = [line for line in (tmp_path / "asked").read_text().splitlines() if " patch " in line]
    assert len(patched) == 2
    assert all("acceptance-suspend-train-1" in line for line in patched)
