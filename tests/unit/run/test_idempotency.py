"""A key of idempotency: the same request is answered once, another one is refused."""

from __future__ import annotations

import pytest

from medfuncta_dist.errors import LeaseLostError, RunChangedError, RunFileError
from medfuncta_dist.shards.snapshot import newest_snapshot
from medfuncta_dist.stages import chain
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.storage.leases.lease import dataset_lease, first_lease, parse_lease, run_lease
from medfuncta_dist.storage.leases.lease_holder import this_process
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.stages.test_refusals import run_file


def test_a_finished_request_is_answered_from_its_record(archive):
    first = run_stages(run_file(archive), ["pack"], "monday")
    (archive / "images.npz").unlink()
    assert run_stages(run_file(archive), ["pack"], "monday") == first
    with pytest.raises(RunFileError, match="no file matches"):
        run_stages(run_file(archive), ["pack"], "tuesday")


def test_a_recorded_answer_needs_no_lease(archive):
    first = run_stages(run_file(archive), ["pack"], "monday")
    store = ObjectStore(str(archive / "store"))
    alive = first_lease(2**40, this_process(), 60).to_bytes()
    store.write(run_lease("refused"), alive)
    assert run_stages(run_file(archive), ["pack"], "monday") == first
    assert store.read(run_lease("refused")) == alive


@pytest.mark.parametrize("change", [{"fit__steps": 5}, {"cluster__workers": 2}])
def test_a_key_stands_for_one_run_file(archive, change):
    run_stages(run_file(archive), ["pack"], "monday")
    with pytest.raises(RunChangedError, match="key was used before"):
        run_stages(run_file(archive, **change), ["pack"], "monday")


def test_a_key_stands_for_its_stages_even_before_it_is_answered(archive):
    with pytest.raises(RunFileError):
        run_stages(run_file(archive, data__source=str(archive / "none.npz")), ["pack"], "monday")
    with pytest.raises(RunChangedError, match="key was used before"):
        run_stages(run_file(archive), ["pack"], "monday")


def test_a_request_that_failed_is_done_by_the_next_try(archive):
    source = archive / "images.npz"
    source.rename(archive / "away")
    with pytest.raises(RunFileError, match="no file matches"):
        run_stages(run_file(archive), ["pack"], "monday")
    (archive / "away").rename(source)
    assert run_stages(run_file(archive), ["pack"], "monday")["pack"]["counts"]["packed"] == 10


def test_the_key_itself_is_not_kept(archive):
    run_stages(run_file(archive), ["pack"], "for-jane-doe")
    files = [path for path in (archive / "store").rglob("*") if path.is_file()]
    assert len([path for path in files if path.parent.name == "submissions"]) == 1
    assert not any(b"jane" in path.read_bytes() or "jane" in path.name for path in files)


def test_both_leases_are_held_while_packing_and_given_back(archive, monkeypatch):
    store, seen = ObjectStore(str(archive / "store")), []
    run_stage = chain._run_stage

    def watched(name, run, store_, fence, names):
        seen.append(fence.token)
        fence.require(store)
        return run_stage(name, run, store_, fence, names)

    monkeypatch.setattr(chain, "_run_stage", watched)
    run_stages(run_file(archive), ["pack", "pack"])
    leases = [parse_lease(store.read(path), path) for path in (run_lease("refused"), dataset_lease("refused"))]
    assert [lease.free for lease in leases] == [True, True]
    assert seen == [leases[0].token] * 2
    assert leases[1].beat == 1


def test_a_driver_that_lost_its_run_does_not_touch_the_summary(archive, monkeypatch):
    store = ObjectStore(str(archive / "store"))

    def taken_over(name, run, store_, fence, names):
        store.write(run_lease("refused"), first_lease(fence.token + 1, this_process(), 60).to_bytes())
        return {"said": [], "of": "the former driver"}

    monkeypatch.setattr(chain, "_run_stage", taken_over)
    with pytest.raises(LeaseLostError):
        run_stages(run_file(archive), ["pack"])
    assert not store.exists("runs/refused/summary.json")
    assert newest_snapshot(store, "refused") is None
