"""The fit stage's driver gets SIGKILL at random moments and is started again: the same table, and no range fitted twice
after its commit; also where a scan is a grid of patches, and in several ranges. Three kills, ten with
MEDFUNCTA_CHAOS=full."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.chaos import fit_journal
from tests.integration.commands import finish, start
from tests.kinds import KINDS
from tests.patched_runs import patched_run
from tests.unit.latents.fitted import FIELD, network, packed, publish, run_file

KILLS, SCANS = (10, 600) if os.environ.get("MEDFUNCTA_CHAOS") == "full" else (3, 200)
PAUSE_S = 0.05
"""Before each of a range's two or three batches, which are fitted in milliseconds."""


PATCHES = "patches"


@pytest.fixture(params=[*KINDS, PATCHES])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFile:
    """Ranges of ten scans, or of ten of the 27 patches that each volume has."""
    run = _patched(tmp_path) if request.param == PATCHES else _whole(tmp_path, request.param)
    (tmp_path / "run.yaml").write_text(dump(run))
    return run


def _patched(tmp_path: Path) -> RunFile:
    shapes = [(12, 12, 12)] * (SCANS // 27)
    run = patched_run(tmp_path, shapes=shapes, batch=8, scans_per_task=10, min_psnr=0.0)
    return run.model_copy(update={"cluster": run.cluster.model_copy(update={"workers": 2})})


def _whole(tmp_path: Path, kind: str) -> RunFile:
    run = run_file(
        tmp_path,
        kind=kind,
        name="kills",
        data={"shard_scans": 64},
        field=FIELD,
        fit={"batch": 8, "scans_per_task": 10, "min_psnr": 0.0},
        cluster={"cache": str(tmp_path / "cache"), "workers": 2},
    )
    packed(run, tmp_path, counts={"train": SCANS})
    publish(run, network(run))
    return run


def commits(run: RunFile) -> dict[str, float]:
    """Range → when its commit record was written, in seconds since 1970."""
    folder = Path(run.storage) / locate_table(run, ObjectStore(run.storage)).folder / "commits"
    return {path.name: path.stat().st_mtime for path in folder.glob("*.json")}


@pytest.mark.slow
@pytest.mark.fault("fit-kill")
@pytest.mark.usefixtures("ray_cluster")
def test_killed_at_random_moments(
    run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Callable[[str], None]
) -> None:
    elsewhere = run.model_copy(update={"storage": str(tmp_path / "uninterrupted")})
    shutil.copytree(run.storage, elsewhere.storage)
    expected = fit(elsewhere, map_here)

    journal, seed = tmp_path / "journal", 20260711
    for name, value in fit_journal.environment(journal, PAUSE_S).items():
        monkeypatch.setenv(name, value)
    chance = random.Random(seed)
    for _ in range(KILLS):
        kill_one(run, tmp_path, chance.random())
    ended = finish(start("fit", str(tmp_path / "run.yaml")))
    assert ended.code == 0, ended.stderr
    assert ended.answer["fit"]["counts"]["fitted"] == expected.counts.fitted == expected.counts.packed

    assert parts_of(run) == parts_of(elsewhere)
    written = commits(run)
    begun = fit_journal.read(journal)
    assert {name for _, name in begun} == {path.partition("-g")[0].removesuffix(".json") for path in written}
    late = [(name, at) for at, name in begun for path, done in written.items() if path.startswith(name) and at > done]
    assert late == []
    again = len(begun) - len({name for _, name in begun})
    measured(f"{KILLS} kills: same bytes; {again} of {len(written)} ranges begun again, none after its commit")


def kill_one(run: RunFile, folder: Path, share: float) -> None:
    """Start the stage and kill it at a random moment: ``share`` of the way through what is left for this kill."""
    before = len(commits(run))
    process = start("fit", str(folder / "run.yaml"))
    left = len(locate_table(run, ObjectStore(run.storage)).works) - before
    more = 1 + int(share * left / (KILLS + 1))
    while len(commits(run)) < before + more and process.poll() is None:
        time.sleep(0.02)
    time.sleep(share / 4)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def parts_of(run: RunFile) -> dict[str, list[bytes]]:
    """The bytes that count, by range."""
    store, folder = ObjectStore(run.storage), locate_table(run, ObjectStore(run.storage)).folder
    found = latent_ledger.read_commits(store, folder).items()
    return {name: [store.read(f"{folder}/{part.path}") for part in commit.parts] for name, commit in found}
