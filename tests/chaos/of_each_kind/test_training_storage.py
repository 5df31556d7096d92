"""Storage that fails under a training run: checkpoints held up while workers are killed, credentials taken back, and a
disk that is full. Each run gets faults from outside, and ends bit-equal to one without."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.training.checkpoints.checkpoint import verify_checkpoints
from medfuncta_dist.training.trainer import TrainSummary, train
from tests.chaos.disk import disk
from tests.chaos.faulty_s3 import Faults, FaultyS3
from tests.chaos.runs import FULL, Driver, committed, drives, events, eventually, stage_run
from tests.stores import moto

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FULL, reason="minutes: MEDFUNCTA_CHAOS=full; below Ray, test_storage_faults.py has it"),
]

SAVE, HANG_S = 50, 6.0
SETTINGS: dict[str, Any] = {"steps": 800, "checkpoint_steps": SAVE, "keep_checkpoints": 3, "max_failures": 20}
PUTS = frozenset({"PUT"})
Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def in_peace(kind: str, storage: str, snapshot: str) -> TrainSummary:
    return train(stage_run(storage, "in-peace", snapshot, kind=kind, **SETTINGS), snapshot)


def with_scans(root: str, storage: str) -> ObjectStore:
    """Another storage with the same data set."""
    store = ObjectStore(root)
    for info in ObjectStore(storage).list("datasets"):
        store.write(info.path, ObjectStore(storage).read(info.path))
    return store


def for_workers(**variables: str) -> dict[str, str]:
    """What a driver's process needs in its environment, so that it and its workers have these variables."""
    return variables | {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}})}


OnS3 = Callable[..., AbstractContextManager[tuple[ObjectStore, RunFile, FaultyS3, Driver]]]


@pytest.fixture
def on_s3(kind: str, s3: Callable[[], str], s3_server: EmbeddedS3, storage: str, snapshot: str, tmp_path: Path) -> OnS3:
    """A run of this name and these settings, driven through a proxy to a storage of its own."""

    @contextmanager
    def troubled(name: str, **train: Any) -> Iterator[tuple[ObjectStore, RunFile, FaultyS3, Driver]]:
        store = with_scans(s3(), storage)
        run = stage_run(store.root, name, snapshot, kind=kind, **SETTINGS, **train)
        with (
            FaultyS3(s3_server.endpoint) as proxy,
            drives(run, tmp_path, **for_workers(AWS_ENDPOINT_URL=proxy.endpoint)) as driver,
        ):
            yield store, run, proxy, driver

    return troubled


@pytest.mark.fault("save-kill")
def test_workers_killed_while_a_checkpoint_is_held_up(on_s3: OnS3, in_peace: TrainSummary, measured: Measured) -> None:
    """Held at a share of one rank or the other, at the record, and after a record whose writer never hears of it."""
    held = [("rank-0-of", 0, "hang"), ("rank-1-of", 1, "hang"), ("checkpoints/commits", 0, "hang")]
    moments = [*held, ("checkpoints/commits", 0, "lost")]
    with on_s3("held") as (store, run, proxy, driver):
        eventually(lambda: committed(store, run.name), "checkpoint")
        for nth, (path, rank, what) in enumerate(moments):
            before = committed(store, run.name)
            proxy.faults = Faults(methods=PUTS, path=path, **{f"{what}_share": 1.0})
            done = proxy.did[what]
            eventually(lambda: proxy.did[what] > done, f"upload of {path}")  # noqa: B023  # called in this turn only
            if what == "hang":
                before = committed(store, run.name)  # Uploads go one after the other: none else is under way.
            os.kill(events(store, run.name, "started")[nth]["pids"][rank], signal.SIGKILL)
            during = committed(store, run.name)
            proxy.faults = Faults()
            began = eventually(lambda: events(store, run.name, "started")[nth + 1 :], "restart")[0]["step"]  # noqa: B023
            assert began == max(during)
            assert during == before if what == "hang" else max(during) > max(before)
        code, answer = driver.ends()
    assert code == 0, answer
    assert answer["train"]["network_digest"] == in_peace.network_digest
    assert verify_checkpoints(store, run.name) == (3, [])
    places = "a share, the record"
    measured(f"killed while {places} was held up: the one before used; record stored, answer lost: the new one used")


@pytest.mark.fault("storage")
def test_an_upload_that_hangs_for_longer_than_a_worker_may_costs_no_worker_its_life(
    on_s3: OnS3, in_peace: TrainSummary, tmp_path: Path, measured: Measured
) -> None:
    """In the middle, where all wait for rank 0 before the next checkpoint; at the end, where others are done before."""
    with on_s3("patient", hang_timeout=HANG_S) as (store, run, proxy, driver):
        eventually(lambda: committed(store, run.name), "checkpoint")
        for path, stop in (("rank-0-of", False), ("checkpoints/commits", True)):
            before, hung = max(committed(store, run.name)), proxy.did["hang"]
            proxy.faults = Faults(methods=PUTS, path=path, hang_share=1.0)
            eventually(lambda: proxy.did["hang"] > hung, f"upload of {path}")  # noqa: B023  # called in this turn only
            if stop:
                driver.process.send_signal(signal.SIGTERM)
            time.sleep(2 * HANG_S)
            proxy.faults = Faults()
            eventually(lambda: max(committed(store, run.name)) > before, "checkpoint after all")  # noqa: B023
        code, answer = driver.ends()
    assert code == 5, answer
    assert len(events(store, run.name, "started")) == 1
    assert "hangs" not in driver.said()
    with drives(run, tmp_path) as driver:
        code, again = driver.ends()
    assert code == 0, again
    assert again["train"]["network_digest"] == in_peace.network_digest
    measured(f"uploads that hung for more than {2 * HANG_S:.0f} s, with {HANG_S:.0f} s for a worker: no restart")


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[[str], Path]:
    """Credentials as a file gives them; call it to put a key there."""
    file = tmp_path / "credentials"

    def put(key: str) -> Path:
        new = file.with_suffix(".new")
        new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")
        return new.replace(file)

    return put


@pytest.mark.fault("credentials")
def test_credentials_that_expire_in_the_middle_of_training(
    kind: str,
    storage: str,
    snapshot: str,
    in_peace: TrainSummary,
    tmp_path: Path,
    key_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    measured: Measured,
) -> None:
    """First there are new ones, and nothing stops; then there are none, and the run stops until there are."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")  # the workers' session has them: empty ones count as none
    with moto() as server, FaultyS3(server["AWS_ENDPOINT_URL"]) as proxy:
        variables = {"AWS_ENDPOINT_URL": proxy.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        variables |= {
            "AWS_SHARED_CREDENTIALS_FILE": str(key_file("OLD")),
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        from medfuncta_dist.storage.s3.s3_client import s3_client

        s3_client().files.mkdir("expiring")
        store = with_scans("s3://expiring/root", storage)
        run = stage_run(store.root, "expiring", snapshot, kind=kind, **SETTINGS)
        environment = for_workers(**variables)
        with drives(run, tmp_path, **environment) as driver:
            first = eventually(lambda: committed(store, run.name), "checkpoint")[-1]
            key_file("NEW")
            proxy.faults = Faults(refused_key="OLD")
            eventually(lambda: max(committed(store, run.name)) > first + SAVE, "checkpoint with the new key")
            assert proxy.did["refused"] > 0
            assert len(events(store, run.name, "started")) == 1
            proxy.faults = Faults(refused_key="")
            code, answer = driver.ends()
        assert code == 5, answer
        assert "again" in answer["error"]["do"]
        proxy.faults = Faults()
        saved = max(committed(store, run.name))
        with drives(run, tmp_path, **environment) as driver:
            code, again = driver.ends()
        assert code == 0, again
        assert again["train"]["first_step"] == saved
        assert again["train"]["network_digest"] == in_peace.network_digest
    measured("in training: a new key taken up without a restart; without one, exit code 5, and the rest with the next")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    with disk(tmp_path / "small", 4 * 2**20, lazy=True) as folder:
        yield folder


def fill(folder: Path) -> Path:
    """A file that leaves no room for a checkpoint."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.mark.fault("disk-full")
def test_a_disk_that_fills_up_under_checkpoints(
    kind: str, storage: str, snapshot: str, in_peace: TrainSummary, small_disk: Path, tmp_path: Path, measured: Measured
) -> None:
    store = with_scans(str(small_disk / "root"), storage)
    run = stage_run(store.root, "filled", snapshot, kind=kind, **SETTINGS)
    with drives(run, tmp_path) as driver:
        eventually(lambda: committed(store, run.name), "checkpoint")
        filler = fill(small_disk)
        code, answer = driver.ends()
    assert code in (1, 5), answer
    assert "No space left" in f"{answer}" or "full" in f"{answer}", answer
    whole, damaged = verify_checkpoints(store, run.name)
    assert (whole >= 1, damaged) == (True, [])
    saved = max(committed(store, run.name))
    filler.unlink()
    with drives(run, tmp_path) as driver:
        code, again = driver.ends()
    assert code == 0, again
    assert again["train"]["first_step"] == saved
    assert again["train"]["network_digest"] == in_peace.network_digest
    measured(
        f"under checkpoints: reported ({answer['error']['kind']}), {whole} whole and none partial; with room it resumed"
    )
