from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, LeaseLostError, MedfunctaError
from medfuncta_dist.fields.basis import BasisSpec, init_params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.meta.inner_rates import inner_rates
from medfuncta_dist.meta.learner import Learner, Trained
from medfuncta_dist.network.committed_network import Committed, commit_network, committed_network, published_network
from medfuncta_dist.network.core_settings import new_learner, spectrum_of
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.shards.snapshot import Shard, Snapshot
from medfuncta_dist.storage.leases.lease import run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, Guard
from tests.kinds import KINDS
from tests.records import write_record
from tests.unit.latents.fitted import FIT


def run_file(storage: str = "/unused", **sections: dict) -> RunFile:
    data = {"source": "unused", "shape": [6, 5, 4], "channels": 2}
    return RunFile.model_validate({"name": "r", "storage": storage, "data": data, **sections})


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Of the field."""
    found: str = request.param
    return found


def of_kind(kind: str) -> dict[str, dict]:
    """The sections of a small field."""
    return {"field": {"kind": kind, "layers": 3, "hidden": 4, "latent": 2}, "fit": FIT[kind]}


def untrained(learner: Learner) -> Trained:
    """Its first parameters, and for a basis field's latents four scans that differ."""
    return learner.trained(learner.params(), [torch.rand(4, 120, 2, generator=torch.Generator().manual_seed(0))])


def test_a_committed_network_reads_back_and_a_damaged_record_is_noticed(tmp_path: Path, kind: str) -> None:
    store, run = ObjectStore(str(tmp_path)), run_file(**of_kind(kind))
    assert committed_network(store, "r") is None
    trained = untrained(new_learner(run))
    snapshot = Snapshot("scans", None, {"shape": [6, 5, 4]}, {})
    done = commit_network(store, run, snapshot, trained, loss=0.5, psnr=None, fence=ALONE)
    assert committed_network(store, "r") == done
    weights, description = (store.read(done.files[f"network.{end}"]["path"]) for end in ("safetensors", "json"))
    network = SharedNetwork.from_files(weights, description)
    assert (network.digest, network.dataset_digest) == (done.digest, snapshot.digest)
    assert all(torch.equal(network.params[name], tensor) for name, tensor in trained.params.items())
    record = "runs/r/network/commit.json"
    store.write(record, store.read(record).replace(b"0.5", b"0.4"))
    with pytest.raises(IntegrityError):
        committed_network(store, "r")


def committed(tmp_path: Path, kind: str, seed: int, fence: Guard = ALONE) -> Committed:
    """A network that is another for another seed."""
    run = run_file(**of_kind(kind), train={"seed": seed})
    snapshot = Snapshot("scans", None, {"shape": [6, 5, 4]}, {})
    return commit_network(ObjectStore(str(tmp_path)), run, snapshot, untrained(new_learner(run)), 0.5, None, fence)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_driver_that_lost_its_lease_changes_no_byte_of_its_successors_network(tmp_path: Path, kind: str) -> None:
    store, path = ObjectStore(str(tmp_path)), run_lease("r")
    first = take(store, path, 0.2, print)
    first.give_back()
    second = take(store, path, 0.2, print)
    done = committed(tmp_path, kind, seed=2, fence=second.fence)
    before = content(tmp_path / "runs/r/network")
    with pytest.raises(LeaseLostError):
        committed(tmp_path, kind, seed=1, fence=first.fence)
    after = content(tmp_path / "runs/r/network")
    assert before.items() <= after.items()
    assert committed_network(store, "r") == done
    ref = published_network(store, "r")
    assert load_network(store, ref).digest == ref.digest == done.digest
    assert SharedNetwork.load(tmp_path / "runs/r/network").digest == done.digest


def test_a_run_folder_is_loaded_by_its_record_wherever_it_was_copied_to(tmp_path: Path, kind: str) -> None:
    for seed in (1, 2):
        done = committed(tmp_path, kind, seed)
    copy = tmp_path / "my-run"
    shutil.copytree(tmp_path / "runs" / "r", copy)
    assert SharedNetwork.load(copy / "network").digest == done.digest
    assert SharedNetwork.load(copy / "network" / done.digest).digest == done.digest
    (copy / "network" / done.digest / "network.json").unlink()
    with pytest.raises(MedfunctaError, match=r"there is no .*network\.json"):
        SharedNetwork.load(copy / "network")
    (copy / "network" / "commit.json").write_text("{")
    with pytest.raises(IntegrityError, match="not JSON"):
        SharedNetwork.load(copy / "network")


def test_a_network_of_the_old_layout_reads(tmp_path: Path) -> None:
    """Version 0.1.0 wrote both files beside the record."""
    done, store = committed(tmp_path, "siren", seed=1), ObjectStore(str(tmp_path))
    files = {}
    for name, file in done.files.items():
        files[name] = file | {"path": f"runs/r/network/{name}"}
        store.write(files[name]["path"], store.read(file["path"]))
        store.delete(file["path"])
    write_record(store, "runs/r/network/commit.json", "network", asdict(replace(done, files=files)))
    found = committed_network(store, "r")
    assert found is not None
    assert found.files == files
    ref = published_network(store, "r")
    assert (ref.folder, load_network(store, ref).digest) == ("runs/r/network", done.digest)
    assert SharedNetwork.load(tmp_path / "runs/r/network").digest == done.digest


@pytest.mark.parametrize(
    "path",
    [
        "runs/r/network/../../other/network/network.json",
        "runs/r/network//network.json",
        "runs/r/network",
        "runs/r/checkpoints/network.json",
        "/runs/r/network/network.json",
        "network.json",
        "runs/r/network/a\\..\\network.json",
        7,
        None,
    ],
)
def test_a_record_leads_nowhere_but_into_its_runs_network_folder(tmp_path: Path, kind: str, path: object) -> None:
    done, store = committed(tmp_path, kind, seed=1), ObjectStore(str(tmp_path))
    files = done.files | {"network.json": {"path": path}}
    write_record(store, "runs/r/network/commit.json", "network", asdict(replace(done, files=files)))
    with pytest.raises(IntegrityError, match=r"network\.json"):
        committed_network(store, "r")
    with pytest.raises(IntegrityError, match=r"network\.json"):
        published_network(store, "r")
    with pytest.raises(IntegrityError, match=r"network\.json"):
        SharedNetwork.load(tmp_path / "runs/r/network")


def test_a_record_of_another_network_is_noticed(tmp_path: Path, kind: str) -> None:
    done, store = committed(tmp_path, kind, seed=1), ObjectStore(str(tmp_path))
    write_record(store, "runs/r/network/commit.json", "network", asdict(replace(done, digest="0" * 64)))
    with pytest.raises(IntegrityError, match="not the one"):
        SharedNetwork.load(tmp_path / "runs/r/network")
    with pytest.raises(IntegrityError, match="not the one"):
        load_network(store, published_network(store, "r"))


@pytest.mark.parametrize("policy", ["layer", "learned"])
def test_a_network_keeps_the_rates_it_was_trained_with(tmp_path: Path, policy: str) -> None:
    meta = {"inner_steps": 3, "inner_rate": 0.2, "rate_policy": policy}
    store, run = ObjectStore(str(tmp_path)), run_file(field={"layers": 4, "hidden": 4, "latent": 2}, meta=meta)
    learner = new_learner(run)
    done = commit_network(
        store, run, Snapshot("scans", None, {"shape": [6, 5, 4]}, {}), untrained(learner), None, None, fence=ALONE
    )
    weights, description = (store.read(done.files[f"network.{end}"]["path"]) for end in ("safetensors", "json"))
    network = SharedNetwork.from_files(weights, description)
    assert network.params.keys() == network.spec.shapes().keys()
    kept = inner_rates(network.spec, network.extras["inner.rates"], torch.zeros(1))
    assert torch.equal(kept, learner.rates.detach().expand(-1, -1, 2))
    assert kept.shape == {"layer": (1, 2, 2), "learned": (3, 1, 2)}[policy]


def test_a_run_folder_that_was_copied_under_another_name_still_has_its_network(tmp_path: Path, kind: str) -> None:
    done = committed(tmp_path, kind, seed=1)
    shutil.copytree(tmp_path / "runs" / "r", tmp_path / "runs" / "copy")
    store = ObjectStore(str(tmp_path))
    assert load_network(store, published_network(store, "copy")).digest == done.digest


@pytest.mark.parametrize(("seen", "told"), [(5000, 50), (50, 50), (30, 30)])
def test_copies_of_a_training_scan_do_not_count_as_scans(tmp_path: Path, seen: int, told: int) -> None:
    """Else a network trained on augmented copies would promise what it costs to leave out numbers."""
    spec = BasisSpec(3, 2, 3, 4, 20, 20, (5.0, 10.0), mapped=False)
    variances = torch.linspace(1, 0.1, 20)
    facts = {"scans": seen, "residual": 0.5}
    trained = Trained(spec, init_params(spec, torch.Generator()), {"latent.variances": variances}, facts)
    train, test = ([Shard(f"{name}.tar", 1, name * 8, 25, f"{name}.index", 1, "f" * 64)] for name in ("a", "b"))
    snapshot = Snapshot("scans", None, {"shape": [6, 5, 4]}, {"train": [*train, *train], "test": test})
    store, run = ObjectStore(str(tmp_path)), run_file()
    commit_network(store, run, snapshot, trained, None, None, fence=ALONE)
    network = load_network(store, published_network(store, run.name))
    assert network.inner["scans"] == told
    assert network.inner["residual"] == 0.5
    found = spectrum_of(network)
    assert found is not None
    assert found.scans == told
    assert not found.tells_last_numbers, "20 numbers need 80 scans"
