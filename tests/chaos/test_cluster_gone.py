"""The whole cluster deleted without a warning, again and again, under a chain of jobs that one command submits: the
same command, given again on each new cluster, brings the run to its end. Minutes: only with MEDFUNCTA_CHAOS=full; the
short form is in tests/integration/test_submission.py."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import yaml

from medfuncta_dist.stages.verify import verify_target
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.submit.stored import read_jobs
from medfuncta_dist.telemetry.event_log import read_events
from tests.integration.test_submission import start
from tests.integration.training_runs import run_file
from tests.ray_nodes import RayNodes
from tests.writers import write_medmnist

STEPS, INTERVAL, LOSSES = 2000, 20, 3
CHAIN = ("pack", "train", "fit")

pytestmark = [
    pytest.mark.fault("cluster-gone"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("MEDFUNCTA_CHAOS") != "full", reason="minutes: MEDFUNCTA_CHAOS=full"),
]


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    write_medmnist(tmp_path / "scans.npz", shape=[8, 8])
    whole = run_file(str(tmp_path / "storage"), "gone", steps=STEPS, checkpoint_steps=INTERVAL).model_dump(mode="json")
    data = {"source": str(tmp_path / "scans.npz"), "private": str(tmp_path / "private"), "shard_scans": 16}
    whole["data"] |= {**data, "dataset": "gone"}
    whole["cluster"] |= {"cache": str(tmp_path / "cache"), "lease_seconds": 5.0}
    path = tmp_path / "gone.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def test_a_chain_comes_to_its_end_over_lost_clusters(run_yaml: Path, measured: Callable[[str], None]) -> None:
    chance, lost, began = random.Random(0), 0, time.monotonic()
    with RayNodes() as nodes:
        nodes.up(2)
        while True:
            chain = start(nodes, "submit", str(run_yaml), *CHAIN, "--follow")
            try:
                out, err = chain.communicate(timeout=chance.uniform(25, 60) if lost < LOSSES else 900)
            except subprocess.TimeoutExpired:
                nodes.down()  # the command's end, too: there is nobody to ask
                chain.communicate(timeout=120)
                lost += 1
                nodes.up(2)
                continue
            assert chain.returncode == 0, err
            assert json.loads(out.splitlines()[-1])["state"] == "done"
            break
    store = ObjectStore(str(run_yaml.parent / "storage"))
    try:
        checked = verify_target(str(run_yaml), [])["runs"]["gone"]["latents"]
    finally:
        ray.shutdown()  # which it started here, and which the session's own would find
    assert (checked["packed"], checked["fitted"], checked["unfitted"]) == (56, 56, 0)
    events = [line for line in read_events(store, "gone") if line["kind"] == "event"]
    starts = [event["fields"]["step"] for event in events if event["name"] == "started"]
    saved = [event["fields"]["step"] for event in events if event["name"] == "checkpoint"]
    assert starts == sorted(starts)
    assert max(saved) == STEPS
    jobs = [job.name for job in read_jobs(store, "gone")]
    measured(f"{lost} clusters lost, {len(jobs)} jobs, starts at steps {starts}, {time.monotonic() - began:.0f} s")
    assert len(jobs) == len(set(jobs))
    assert lost > 0
