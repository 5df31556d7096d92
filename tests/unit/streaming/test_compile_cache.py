"""Compiled code stays on the node: a process that starts again finds it, and the shard cache leaves it alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.compile_cache import COMPILED, VARIABLES, use_compile_cache
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from tests.unit.streaming.archive import write_split

COMPILE = """
import json, sys
from pathlib import Path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.streaming.compile_cache import use_compile_cache
use_compile_cache(Path(sys.argv[1]))
import torch
from torch._dynamo.utils import counters
torch.compile(lambda x: (x.sin() * 2 + 1).cos().sum(0))(torch.rand(64, 64))
print(json.dumps([counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"]]))
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


def compiled_in_a_fresh_process(cache: Path) -> list[int]:
    """How many graphs were compiled, and how many were found."""
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, "-c", COMPILE, str(cache)]
    took = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert took.returncode == 0, took.stderr
    found: list[int] = json.loads(took.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_process_that_starts_again_compiles_nothing_anew(tmp_path: Path) -> None:
    assert compiled_in_a_fresh_process(tmp_path) == [1, 0]
    assert compiled_in_a_fresh_process(tmp_path) == [0, 1]


def test_the_shard_cache_neither_counts_nor_removes_what_is_compiled(tmp_path: Path) -> None:
    store, folder = ObjectStore(str(tmp_path / "store")), tmp_path / "cache"
    use_compile_cache(folder)
    assert folder.stat().st_mode & 0o777 == 0o700, "shards will be there"
    shards = write_split(store, [2, 2, 2])
    compiled = [folder / COMPILED / "inductor" / name for name in ("kernel.tar", "kernel.part", "kernel.index")]
    for file in compiled:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(3 * shards[0].size))
        os.utime(file, (0, 0))
    cache = ShardCache(store, folder, 2 * shards[0].size)
    for shard in shards:
        cache.path(shard)
    assert len(list(folder.glob("*.tar"))) == 2, "as many as its size allows"
    assert all(file.exists() for file in compiled)


def test_folders_that_the_user_has_named_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    use_compile_cache(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / COMPILED / "inductor")


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_in_which_others_may_write_is_not_used(tmp_path: Path, mode: int) -> None:
    (tmp_path / COMPILED).mkdir()
    (tmp_path / COMPILED).chmod(mode)
    use_compile_cache(tmp_path)
    assert not VARIABLES.keys() & os.environ.keys()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / COMPILED).symlink_to(tmp_path / "elsewhere")
    use_compile_cache(tmp_path)
    assert not VARIABLES.keys() & os.environ.keys()


@pytest.mark.parametrize(("gpus", "set_there"), [(0.0, False), (0.5, True)])
def test_tasks_on_a_gpu_keep_what_they_compile(tmp_path: Path, gpus: float, set_there: bool) -> None:
    WorkerSettings(str(tmp_path / "store"), str(tmp_path / "cache"), 10**9, 1, gpus).open()
    assert (os.environ.get("TRITON_CACHE_DIR") == str(tmp_path / "cache" / COMPILED / "triton")) is set_there
