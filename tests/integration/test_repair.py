"""verify --repair on a whole run: what is damaged is made again, byte by byte, and what cannot be is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.config.load import dump
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.integration.commands import command
from tests.kinds import BY_KIND
from tests.unit.latents.fitted import ready

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def kind() -> str:
    """Of the field, where a test does not name both."""
    return "siren"


@pytest.fixture
def run(kind: str, tmp_path: Path) -> RunFile:
    run = ready(tmp_path, kind)
    fit(run, map_here)
    (tmp_path / "run.yaml").write_text(dump(run))
    return run


def everything(run: RunFile) -> dict[str, bytes]:
    """All objects but leases, whose heartbeats go on."""
    store = ObjectStore(run.storage)
    return {i.path: store.read(i.path) for i in store.list("") if not i.path.endswith("/lease.json")}


def flip(run: RunFile, path: str) -> None:
    store = ObjectStore(run.storage)
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 4
    store.write(path, bytes(data))


@BY_KIND
def test_repaired_and_fitted_again_everything_is_as_it_was(run: RunFile, tmp_path: Path) -> None:
    file, before = str(tmp_path / "run.yaml"), everything(run)
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    shard, other, *_ = [shard for split in snapshot.splits.values() for shard in split]
    record = next(path for path in before if "/commits/" in path and "latents/" in path)
    # Of another record: two faults of one range count as one.
    part = next(path for path in before if "/parts/" in path and Path(path).stem.encode() not in before[record])
    for path in (shard.uri, part, record):
        flip(run, path)
    ObjectStore(run.storage).delete(other.index_uri)

    with pytest.raises(IntegrityError, match="4 faults") as caught:
        verify_target(file, [])
    assert "--repair" in caught.value.do

    ended = command("verify", file, "--repair")
    assert ended.code == 0, ended.stderr
    said = "\n".join(ended.answer["said"])
    assert "2 of 2 damaged shards packed again" in said
    assert "2 of 2 damaged commit records removed" in said
    assert ended.answer["runs"]["small"]["latents"]["unfitted"] > 0
    assert fit(run, map_here).counts.quarantined == 0
    assert everything(run) == before
    assert verify_target(file, [])["runs"]["small"]["latents"]["unfitted"] == 0


def test_what_can_not_be_repaired_is_said_and_left_alone(run: RunFile, tmp_path: Path) -> None:
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    shard = snapshot.splits["train"][0]
    flip(run, shard.uri)
    (tmp_path / "archive" / "scans-0.npz").unlink()
    before = everything(run)
    with pytest.raises(IntegrityError, match="1 faults") as caught:
        verify_target(str(tmp_path / "run.yaml"), [], repair=True)
    assert "not repaired" in str(caught.value)
    assert everything(run) == before
