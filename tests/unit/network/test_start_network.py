"""The network that a run starts from: where it is looked for, what it must be, and the run's own copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, LeaseLostError, RunFileError, StageOrderError
from medfuncta_dist.fields.basis import MAP
from medfuncta_dist.meta.outer_loop import LOG_RATES
from medfuncta_dist.network.committed_network import commit_network, published_network
from medfuncta_dist.network.core_settings import new_learner
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.network.start_network import check_start, first_params, load_start, take_start
from medfuncta_dist.network.start_record import start_path, started_from
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from tests.kinds import KINDS
from tests.unit.latents.fitted import FIT

SIZES = {"layers": 3, "hidden": 4, "latent": 2}


def run_file(store: ObjectStore, name: str, kind: str = "siren", start_from: str | None = None, **changes) -> RunFile:
    """``changes``: of sections."""
    train = {"start_from": start_from, **changes.pop("train", {})}
    sections = {"field": {"kind": kind, **SIZES, **changes.pop("field", {})}, "fit": FIT[kind], "train": train}
    data = {"source": "unused", "shape": [6, 5, 4], "channels": 2} | changes.pop("data", {})
    return RunFile.model_validate({"name": name, "storage": store.root, "data": data, **sections, **changes})


def trained(store: ObjectStore, run: RunFile) -> str:
    """The run's first parameters, committed as its network; the network's digest."""
    points = run.data.points
    scans = [torch.rand(4, points, run.data.channels, generator=torch.Generator().manual_seed(0))]
    learner = new_learner(run)
    whole = learner.trained(learner.params(), scans)
    return commit_network(store, run, Snapshot("scans", None, {}, {}), whole, 0.5, None, ALONE).digest


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "store"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_parameters_are_those_of_the_network(store: ObjectStore, kind: str) -> None:
    digest = trained(store, run_file(store, "a", kind, train={"seed": 7}))
    run = run_file(store, "b", kind, "a")
    assert load_start("b", store) is None
    assert check_start(run, store) == take_start(run, store, ALONE) == started_from(store, "b") == digest
    network, learner = load_network(store, published_network(store, "a")), new_learner(run)
    assert not all(torch.equal(value, network.params[name]) for name, value in learner.params().items())
    start = load_start("b", store)
    assert start is not None
    learner.load(first_params(learner, start))
    assert all(torch.equal(value, network.params[name]) for name, value in learner.params().items())
    assert set(network.params) - set(learner.params()) == ({MAP} if kind == "basis" else set())


def test_the_copy_stays_when_the_other_run_changes_and_goes(store: ObjectStore) -> None:
    digest = trained(store, run_file(store, "a"))
    run = run_file(store, "b", start_from="a")
    take_start(run, store, ALONE)
    assert trained(store, run_file(store, "a", train={"seed": 9})) != digest
    assert check_start(run, store) == take_start(run, store, ALONE) == digest
    for info in store.list("runs/a"):
        store.delete(info.path)
    start = load_start("b", store)
    assert start is not None
    assert check_start(run, store) == take_start(run, store, ALONE) == start.digest == digest


def test_the_network_says_what_it_was_started_from(store: ObjectStore) -> None:
    digest = trained(store, run_file(store, "a"))
    assert b"started_from" not in store.read("runs/a/network/commit.json")
    run = run_file(store, "b", start_from="a")
    take_start(run, store, ALONE)
    trained(store, run)
    assert f'"started_from":"{digest}"'.encode() in store.read("runs/b/network/commit.json")


def test_it_is_found_in_a_folder_of_a_run_of_a_network_or_with_two_files(store: ObjectStore, tmp_path: Path) -> None:
    digest = trained(store, run_file(store, "a"))
    other = ObjectStore(str(tmp_path / "other"))
    bare = tmp_path / "bare"
    shutil.copytree(f"{store.root}/runs/a/network/{digest}", bare)
    for folder in (f"{store.root}/runs/a", f"{store.root}/runs/a/network/", str(bare)):
        assert check_start(run_file(other, "b", start_from=folder), other) == digest
    (bare / "network.safetensors").write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        check_start(run_file(other, "b", start_from=str(bare)), other)


@pytest.mark.parametrize("named", ["nobody", "./nowhere/runs/a"])
def test_no_network_there(store: ObjectStore, named: str) -> None:
    with pytest.raises(StageOrderError, match=r"train\.start_from"):
        check_start(run_file(store, "b", start_from=named), store)
    assert started_from(store, "b") is None


def test_a_run_does_not_start_from_itself(store: ObjectStore) -> None:
    trained(store, run_file(store, "a"))
    with pytest.raises(RunFileError, match="the run itself"):
        check_start(run_file(store, "a", start_from="a"), store)


@pytest.mark.parametrize("named", ["Run", "a b", "https://x/y", "s3://"])
def test_neither_a_name_nor_a_folder(store: ObjectStore, named: str) -> None:
    with pytest.raises(ValueError, match=r"train\.start_from"):
        run_file(store, "b", start_from=named)


def test_all_that_differs_in_the_architecture_is_named(store: ObjectStore) -> None:
    trained(store, run_file(store, "a"))
    changes = {"field": {"hidden": 6, "omegas": [10.0, 20.0]}, "data": {"shape": [8, 8], "channels": 1}}
    run = run_file(store, "b", start_from="a", **changes)
    with pytest.raises(RunFileError, match="another architecture") as caught:
        take_start(run, store, ALONE)
    lines = caught.value.what.splitlines()[1:]
    assert [line.split(" is ")[0].strip() for line in lines] == [
        "the number of axes of data.shape",
        "data.channels",
        "field.hidden",
        "field.omegas",
    ]
    assert "field.hidden is 6, the network's 4" in caught.value.what
    assert not store.list("runs/b")


def test_another_kind_of_field_is_named_alone(store: ObjectStore) -> None:
    trained(store, run_file(store, "a"))
    with pytest.raises(RunFileError, match=r"field\.kind is basis, the network's siren") as caught:
        check_start(run_file(store, "b", "basis", "a"), store)
    assert caught.value.what.count("\n") == 1


def test_other_scans_and_of_a_basis_field_another_latent_may_be(store: ObjectStore) -> None:
    digest = trained(store, run_file(store, "a", "basis", field={"features": 4}))
    other = {"data": {"shape": [9, 9, 9]}, "field": {"latent": 3, "features": 4}}
    assert check_start(run_file(store, "b", "basis", "a", **other), store) == digest
    with pytest.raises(RunFileError, match=r"field\.features is 5, the network's 4"):
        check_start(run_file(store, "b", "basis", "a", field={"features": 5}), store)


def test_learned_rates_are_taken_over_where_both_learn_as_many(store: ObjectStore) -> None:
    learned = {"meta": {"rate_policy": "learned", "inner_steps": 3, "inner_rate": 0.1}}
    source = run_file(store, "a", **learned)
    learner = new_learner(source)
    rates = torch.tensor([0.1, 0.2, 0.3])
    with torch.no_grad():
        learner.params()[LOG_RATES].copy_(rates.log().view(3, 1, 1))
    commit_network(
        store, source, Snapshot("scans", None, {}, {}), learner.trained(learner.params(), []), None, None, ALONE
    )
    network = load_network(store, published_network(store, "a"))
    assert torch.allclose(first_params(learner, network)[LOG_RATES].exp().flatten(), rates)
    fewer = new_learner(run_file(store, "b", **{"meta": {**learned["meta"], "inner_steps": 2}}))
    assert torch.allclose(first_params(fewer, network)[LOG_RATES].exp().flatten(), torch.tensor([0.1, 0.1]))
    assert LOG_RATES not in first_params(new_learner(run_file(store, "c")), network)


def test_a_driver_that_lost_its_lease_decides_nothing(store: ObjectStore) -> None:
    trained(store, run_file(store, "a"))
    first = take(store, run_lease("b"), 0.2, print)
    first.give_back()
    take(store, run_lease("b"), 0.2, print)
    with pytest.raises(LeaseLostError):
        take_start(run_file(store, "b", start_from="a"), store, first.fence)
    assert not store.exists(start_path("b"))


def test_a_damaged_copy_is_noticed(store: ObjectStore) -> None:
    digest = trained(store, run_file(store, "a"))
    take_start(run_file(store, "b", start_from="a"), store, ALONE)
    path = f"runs/b/start/{digest}/network.safetensors"
    store.write(path, store.read(path)[:-1] + b"?")
    with pytest.raises(IntegrityError):
        load_start("b", store)
    store.delete(path)
    with pytest.raises(IntegrityError, match="is missing"):
        load_start("b", store)
