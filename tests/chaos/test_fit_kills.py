"""The fit stage's driver gets SIGKILL at random moments and is started again: the same table, and no range fitted twice
after its commit. Three kills, ten with MEDFUNCTA_CHAOS=full."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.latents.table_format import table_bytes
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.chaos import fit_journal
from tests.integration.commands import finish, start
from tests.kinds import KINDS
from tests.unit.latents.fitted import FIELD, network, packed, publish, run_file

KILLS, SCANS = (10, 600) if os.environ.get("MEDFUNCTA_CHAOS") == "full" else (3, 200)
PAUSE_S = 0.05
"""Before each of a range's two or three batches, which are fitted in milliseconds."""


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFile:
    """Ranges of ten scans."""
    run = run_file(
        tmp_path,
        kind=request.param,
        name="kills",
        data={"shard_scans": 64},
        field=FIELD,
        fit={"batch": 8, "scans_per_task": 10, "min_psnr": 0.0},
        cluster={"cache": str(tmp_path / "cache"), "workers": 2},
    )
    packed(run, tmp_path, counts={"train": SCANS})
    publish(run, network(run))
    (tmp_path / "run.yaml").write_text(dump(run))
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
    packed(elsewhere, tmp_path, counts={"train": SCANS})
    publish(elsewhere, network(elsewhere))
    fit(elsewhere, map_here)

    journal, seed = tmp_path / "journal", 20260711
    for name, value in fit_journal.environment(journal, PAUSE_S).items():
        monkeypatch.setenv(name, value)
    chance = random.Random(seed)
    for _ in range(KILLS):
        kill_one(run, tmp_path, chance.random())
    ended = finish(start("fit", str(tmp_path / "run.yaml")))
    assert ended.code == 0, ended.stderr
    assert ended.answer["fit"]["counts"]["fitted"] == SCANS

    assert table_bytes(table_of(run)) == table_bytes(table_of(elsewhere))
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
    more = 1 + int(share * (SCANS // 10 - before) / (KILLS + 1))
    while len(commits(run)) < before + more and process.poll() is None:
        time.sleep(0.02)
    time.sleep(share / 4)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def table_of(run: RunFile) -> object:
    store = ObjectStore(run.storage)
    return latent_ledger.load_table(store, locate_table(run, store).folder)
