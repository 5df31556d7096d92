"""The GPUs that Ray grants a task: those of the run file. Ray counts GPUs that it is told of, whether there are any."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

GRANTED = """
import json, sys
import ray
from medfuncta_dist.config.load import parse
from medfuncta_dist.run.fan_outs import compute_fan_out, cpu_fan_out, trial_fan_out

def granted(item):
    return ray.get_runtime_context().get_assigned_resources().get("GPU", 0)

ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, object_store_memory=10**8)
run = parse("{name: r, storage: x, data: {source: x, shape: [8]}, cluster: {gpus_per_worker: 1}}", sys.argv[1:])
fan_outs = compute_fan_out, trial_fan_out, cpu_fan_out
found = [[done.result for done in fan_out(run)(granted, [0])] for fan_out in fan_outs]
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("overrides", "gpus"), [([], 1), (["fit.gpus_per_task=0.25"], 0.25), (["fit.gpus_per_task=0"], 0)]
)
def test_a_task_is_granted_the_gpus_of_the_run_file(overrides: list[str], gpus: float) -> None:
    """A task that fits or evaluates; one that tries how training computes; and one that only reads and writes."""
    # Tests hide all GPUs, and Ray does not count hidden ones.
    alone = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")}
    command = [sys.executable, "-c", GRANTED, *overrides]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True, env=alone)
    assert json.loads(answer.stdout.splitlines()[-1]) == [[gpus], [1], [0]]
