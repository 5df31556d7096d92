"""The whole cluster deleted without a warning, again and again, under a chain of jobs that one command submits: the
same command, given again on each new cluster, brings the run to its end. Minutes: only with MEDFUNCTA_CHAOS=full; the
short form is in tests/integration/test_submission.py."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import yaml

from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.status.job_records import read_job_records
from tests.chaos.runs import committed, events, eventually
from tests.integration.test_submission import start
from tests.integration.training_runs import run_file
from tests.kinds import KINDS
from tests.ray_nodes import RayNodes
from tests.writers import write_medmnist

STEPS, INTERVAL, LOSSES = 3000, 100, 3
CHAIN = ("pack", "train", "fit")

pytestmark = [
    pytest.mark.fault("cluster-gone"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("MEDFUNCTA_CHAOS") != "full", reason="minutes: MEDFUNCTA_CHAOS=full"),
]


@pytest.fixture(params=KINDS)
def run_yaml(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_medmnist(tmp_path / "scans.npz", shape=[8, 8])
    train = {"steps": STEPS, "checkpoint_steps": INTERVAL}
    whole = run_file(str(tmp_path / "storage"), "gone", kind=request.param, **train).model_dump(mode="json")
    data = {"source": str(tmp_path / "scans.npz"), "private": str(tmp_path / "private"), "shard_scans": 16}
    whole["data"] |= {**data, "dataset": "gone"}
    whole["cluster"] |= {"cache": str(tmp_path / "cache"), "lease_seconds": 5.0}
    path = tmp_path / "gone.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def test_a_chain_comes_to_its_end_over_lost_clusters(run_yaml: Path, measured: Callable[[str], None]) -> None:
    chance, began = random.Random(0), time.monotonic()
    store = ObjectStore(str(run_yaml.parent / "storage"))
    with RayNodes() as nodes:
        for _ in range(LOSSES):
            nodes.up(2)
            chain, before = start(nodes, "submit", str(run_yaml), *CHAIN, "--follow"), newest(store)
            eventually(
                lambda chain=chain, before=before: newest(store) > before or chain.poll() is not None, "checkpoint"
            )
            time.sleep(chance.uniform(0, 2))
            assert newest(store) < STEPS, "the run was over before its cluster was"
            nodes.down()  # the command's end, too: there is nobody to ask
            chain.communicate(timeout=120)
        nodes.up(2)
        chain = start(nodes, "submit", str(run_yaml), *CHAIN, "--follow")
        out, err = chain.communicate(timeout=900)
        assert chain.returncode == 0, err
        assert json.loads(out.splitlines()[-1])["state"] == "done"
    try:
        checked = verify_target(str(run_yaml), [])["runs"]["gone"]["latents"]
    finally:
        ray.shutdown()  # which it started here, and which the session's own would find
    assert (checked["packed"], checked["fitted"], checked["unfitted"]) == (56, 56, 0)
    starts = [fields["step"] for fields in events(store, "gone", "started")]
    redone = [fields["redone"] for fields in events(store, "gone", "recovered")]
    jobs = [job.name for job in read_job_records(store, "gone")]
    seconds = f"{time.monotonic() - began:.0f} s"
    measured(f"{LOSSES} clusters lost, {len(jobs)} jobs, starts at steps {starts}, {redone} redone, {seconds}")
    assert starts == sorted(starts)
    assert newest(store) == STEPS
    assert len(jobs) == len(set(jobs))
    assert len(redone) == LOSSES
    assert max(redone) < 2 * INTERVAL  # the one under way may be lost with its cluster


def newest(store: ObjectStore) -> int:
    return max(committed(store, "gone"), default=0)
