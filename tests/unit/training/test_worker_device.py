"""A training worker's device: DeepSpeed takes whatever it finds, unless it is told before it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from medfuncta_dist.config.load import parse
from medfuncta_dist.streaming.compile_cache import VARIABLES
from medfuncta_dist.training import trainer
from medfuncta_dist.training.network_subject import NetworkSubject

WORKER = "medfuncta_dist.training.train_worker"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """What DS_ACCELERATOR said, each time that a worker was entered. The worker itself needs a process group."""
    said: list[str | None] = []
    worker = ModuleType(WORKER)
    worker.train_worker = lambda *_: said.append(trainer.os.environ.get("DS_ACCELERATOR"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, WORKER, worker)
    place = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(trainer.ray.train, "get_context", lambda: place)
    monkeypatch.setenv("DS_ACCELERATOR", "whatever was there")
    for variable in VARIABLES:  # which would else be this process's from here on
        monkeypatch.setenv(variable, "a folder of the user's")
    return said


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda")])
def test_deepspeed_is_told_the_device_that_was_granted(
    told: list[str | None], visible_gpu: None, gpus: float, device: str
) -> None:
    run = parse("{name: r, storage: x, data: {source: x, shape: [8]}}", [f"cluster.gpus_per_worker={gpus}"])
    trainer.worker_entry({"run": run.model_dump(), "subject": NetworkSubject(""), "mailbox": None, "fence": None})
    assert told == [device]


def test_a_worker_keeps_what_it_compiles_beside_the_shards(
    told: list[str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR")
    run = parse("{name: r, storage: x, data: {source: x, shape: [8]}}", [f"cluster.cache={tmp_path / 'cache'}"])
    trainer.worker_entry({"run": run.model_dump(), "subject": NetworkSubject(""), "mailbox": None, "fence": None})
    assert told == ["cpu"]
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "cache" / "compiled" / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "a folder of the user's"


JOIN = """
import os, sys
import torch, torch.distributed as dist
from medfuncta_dist.errors import MedfunctaError
os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
from medfuncta_dist.training.optim.engine import join_process_group
try:
    join_process_group(1)
except MedfunctaError as error:
    print(error.what)
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
print(join_process_group(0))
"""


def test_a_rank_joins_on_its_granted_device_and_says_where_it_cannot() -> None:
    took = subprocess.run([sys.executable, "-c", JOIN], capture_output=True, text=True)
    *_, refused, device = took.stdout.splitlines() or ["", ""]
    assert "was granted a GPU" in refused, took.stderr
    assert device == "cpu"
