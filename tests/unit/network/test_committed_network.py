from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.meta.inner_rates import inner_rates
from medfuncta_dist.network.committed_network import commit_network, committed_network, field_spec, new_learner
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.storage.object_store import ObjectStore


def run_file(storage: str = "/unused", **sections: dict) -> RunFile:
    data = {"source": "unused", "shape": [6, 5, 4], "channels": 2}
    return RunFile.model_validate({"name": "r", "storage": storage, "data": data, **sections})


def test_the_run_file_decides_the_architecture() -> None:
    spec = field_spec(run_file(field={"layers": 4, "hidden": 8, "latent": 3, "omega_first": 10.0, "omega_last": 40.0}))
    assert (spec.coords, spec.channels, spec.layers, spec.hidden, spec.latent) == (3, 2, 4, 8, 3)
    assert spec.omegas == pytest.approx((10, 20, 30))
    listed = field_spec(run_file(field={"layers": 3, "omegas": [5.0, 7.0], "residual": False, "modulate_first": True}))
    assert (listed.omegas, listed.residual, listed.modulate_first) == ((5.0, 7.0), False, True)


def test_the_seed_decides_the_first_parameters() -> None:
    small = {"layers": 3, "hidden": 4, "latent": 2}
    first, again, other = (new_learner(run_file(field=small, train={"seed": seed})).params() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layer.1.weight"], other["layer.1.weight"])


def test_a_committed_network_reads_back_and_a_damaged_record_is_noticed(tmp_path: Path) -> None:
    store, run = ObjectStore(str(tmp_path)), run_file(field={"layers": 3, "hidden": 4, "latent": 2})
    assert committed_network(store, "r") is None
    params = new_learner(run).params()
    snapshot = Snapshot("scans", None, {"shape": [6, 5, 4]}, {})
    done = commit_network(store, run, snapshot, params, loss=0.5, psnr=None)
    assert committed_network(store, "r") == done
    weights, description = (store.read(done.files[f"network.{kind}"]["path"]) for kind in ("safetensors", "json"))
    network = SharedNetwork.from_files(weights, description)
    assert (network.digest, network.dataset_digest) == (done.digest, snapshot.digest)
    assert all(torch.equal(network.params[name], params[name]) for name in params)
    record = "runs/r/network/commit.json"
    store.write(record, store.read(record).replace(b"0.5", b"0.4"))
    with pytest.raises(IntegrityError):
        committed_network(store, "r")


@pytest.mark.parametrize("policy", ["layer", "learned"])
def test_a_network_keeps_the_rates_it_was_trained_with(tmp_path: Path, policy: str) -> None:
    meta = {"inner_steps": 3, "inner_rate": 0.2, "rate_policy": policy}
    store, run = ObjectStore(str(tmp_path)), run_file(field={"layers": 4, "hidden": 4, "latent": 2}, meta=meta)
    learner = new_learner(run)
    done = commit_network(store, run, Snapshot("scans", None, {"shape": [6, 5, 4]}, {}), learner.params(), None, None)
    weights, description = (store.read(done.files[f"network.{kind}"]["path"]) for kind in ("safetensors", "json"))
    network = SharedNetwork.from_files(weights, description)
    assert network.params.keys() == network.spec.shapes().keys()
    kept = inner_rates(network.spec, network.extras["inner.rates"], torch.zeros(1))
    assert torch.equal(kept, learner.rates.detach().expand(-1, -1, 2))
    assert kept.shape == {"layer": (1, 2, 2), "learned": (3, 1, 2)}[policy]


def test_rates_start_as_the_run_file_says() -> None:
    def rates(policy: str) -> list[float]:
        meta = {"inner_steps": 2, "inner_rate": 0.4, "rate_policy": policy}
        field = {"layers": 4, "hidden": 4, "latent": 2, "omegas": [5.0, 10.0, 20.0]}
        return new_learner(run_file(field=field, meta=meta)).rates.flatten().tolist()

    assert rates("scalar") == pytest.approx([0.4])
    assert rates("layer") == pytest.approx([0.4, 0.1])
    assert rates("learned") == pytest.approx([0.4, 0.4])
