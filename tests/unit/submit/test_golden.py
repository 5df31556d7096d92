"""The manifests of every run file in jobs/ with every overlay, as files to look at: tests/golden/<overlay>/<job>.yaml.

They are whole but for the run file inside and its digest: a new key of the run file would change them all. After a
change on purpose: `make golden`, and read the difference.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuncta_dist.config.load import load
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.manifest_text import to_yaml
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.manifest.runtime_env import RUN_FILE_VARIABLE, read_environment
from medfuncta_dist.submit.rules.validate_manifest import validate

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.yaml"))
OVERLAYS = {"gpu": ["gpu"], "spot": ["gpu", "spot"], "kueue": ["gpu", "kueue"], "local": ["local"]}
"""As in k8s/overlays."""
ON_A_CLUSTER = {"pneumonia-28": ["storage=s3://my-bucket/medfuncta", "data.source=s3://my-archive/pneumoniamnist.npz"]}
"""What a run file for one machine needs to be changed."""
STAGES = ["pack", "train"]
"""A stage of each kind: fit's pods are those of train, evaluate's those of pack."""


@cache
def _base(overlay: str) -> dict[str, Any]:
    return load_base(OVERLAYS[overlay])


@cache
def _run(job: str) -> RunFile:
    return load(ROOT / "jobs" / f"{job}.yaml", ON_A_CLUSTER.get(job, []))


def _shown(manifest: dict[str, Any], job: str) -> str:
    variables = {**read_environment(manifest), RUN_FILE_VARIABLE: f"(jobs/{job}.yaml, every key)"}
    shown = {**manifest, "spec": {**manifest["spec"], "runtimeEnvYAML": to_yaml({"env_vars": variables})}}
    digest = _run(job).digest()
    return to_yaml(shown).replace(digest, "(digest)").replace(digest[:63], "(digest)")


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", JOBS)
def test_a_manifest_is_as_it_was_and_valid(job, overlay):
    made = [render(Submission(_run(job), (s,), 1, f"{job}-{s}-1", "0" * 40), _base(overlay)) for s in STAGES]
    text = "---\n".join(_shown(manifest, job) for manifest in made)
    path = GOLDEN / overlay / f"{job}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "changed on purpose? `make golden` writes it anew"
    assert [finding for manifest in made for finding in validate(manifest)] == []


def test_there_is_no_golden_manifest_of_something_else():
    assert {path.relative_to(GOLDEN) for path in GOLDEN.rglob("*.yaml")} == {
        Path(overlay) / f"{job}.yaml" for overlay in OVERLAYS for job in JOBS
    }


def test_a_golden_manifest_is_yaml():
    for path in GOLDEN.rglob("ecg.yaml"):
        assert [found["kind"] for found in yaml.safe_load_all(path.read_text(encoding="utf-8"))] == ["RayJob"] * 2
