"""The manifests of every run file in jobs/ with every overlay, as files to look at: tests/golden/<overlay>/<job>.yaml.

After a change on purpose: UPDATE_GOLDEN=1 python -m pytest tests/unit/submit/test_golden.py, and read the difference.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.load import load
from medfuncta_dist.submit.base import load_base
from medfuncta_dist.submit.manifest_text import as_yaml
from medfuncta_dist.submit.render import render_each
from medfuncta_dist.submit.validate import validate

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.yaml"))
OVERLAYS = {"gpu": ["gpu"], "spot": ["gpu", "spot"], "kueue": ["gpu", "kueue"], "local": ["local"]}
"""As in k8s/overlays."""
ON_A_CLUSTER = {"pneumonia-28": ["storage=s3://my-bucket/medfuncta", "data.source=s3://my-archive/pneumoniamnist.npz"]}
"""What a run file for one machine needs to be changed."""
STAGES = ["pack", "train"]
"""A stage of each kind: fit's pods are those of train, evaluate's those of pack."""


def _manifests(job: str, overlay: str) -> list[dict[str, Any]]:
    run = load(ROOT / "jobs" / f"{job}.yaml", ON_A_CLUSTER.get(job, []))
    return render_each(run, STAGES, 1, submission=f"{job}-1", commit="0" * 40, base=_base(overlay))


@cache
def _base(overlay: str) -> dict[str, Any]:
    return load_base(OVERLAYS[overlay])


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("job", JOBS)
def test_a_manifest_is_as_it_was_and_valid(job, overlay):
    made = _manifests(job, overlay)
    text = "---\n".join(as_yaml(manifest) for manifest in made)
    path = GOLDEN / overlay / f"{job}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "changed on purpose? UPDATE_GOLDEN=1 writes it anew"
    assert [finding for manifest in made for finding in validate(manifest)] == []


def test_no_golden_manifest_is_left_behind():
    assert {path.relative_to(GOLDEN) for path in GOLDEN.rglob("*.yaml")} == {
        Path(overlay) / f"{job}.yaml" for overlay in OVERLAYS for job in JOBS
    }
