from __future__ import annotations

import pytest

from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.network.committed_network import Committed, committed_network
from medfuncta_dist.network.run_artifacts import dataset_artifact, network_artifact, table_artifact
from medfuncta_dist.shards.snapshot import Snapshot, load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.latents.fitted import COUNTS, network, packed, publish, record_training, run_file

FIGURES = {
    "latents": "runs/small/latents/x",
    "table": "ab" * 32,
    "dataset": "d",
    "network": "n",
    "counts": {"fitted": 31},
    "psnr": {"test": {"mean": 30.0, "std": 1.0, "scans": 9}},
    "storage_type": "float32",
    "numbers": 24,
    "reasons": {},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ObjectStore, Snapshot, Committed]:
    folder = tmp_path_factory.mktemp("made")
    run = run_file(folder)
    store = ObjectStore(run.storage)
    packed(run, folder)
    publish(run, network(run))
    snapshot = load_snapshot(store, run.dataset, None)
    record_training(run, {})
    snapshot = load_snapshot(store, run.dataset, None)
    done = committed_network(store, run.name)
    assert done is not None
    return store, snapshot, done


def test_a_data_set_is_its_digest_and_counts(made: tuple[ObjectStore, Snapshot, Committed]) -> None:
    artifact = dataset_artifact(made[1])
    assert artifact.reference == f"medfuncta://dataset/{made[1].digest}"
    assert artifact.facts == {"generation": 1, "shape": [12, 12], "channels": 1, "scans": COUNTS, "quarantined": 0}
    assert artifact.read_files() == {}


def test_a_network_names_its_data_set_and_comes_without_its_files_unless_asked(
    made: tuple[ObjectStore, Snapshot, Committed],
) -> None:
    store, snapshot, done = made
    artifact = network_artifact("small", done, store, with_files=False)
    assert (artifact.digest, artifact.facts["dataset"], artifact.facts["psnr"]) == (done.digest, snapshot.digest, 20.0)
    assert artifact.read_files() == {}
    files = network_artifact("small", done, store, with_files=True).read_files()
    assert SharedNetwork.from_files(files["network.safetensors"], files["network.json"]).digest == done.digest


def test_a_table_is_its_digest_and_figures_and_not_its_place() -> None:
    artifact = table_artifact("small", FIGURES)
    assert (artifact.name, artifact.digest) == ("small-latents", "ab" * 32)
    assert artifact.facts["network"] == "n"
    assert "runs/" not in str(artifact)
    assert artifact.read_files() == {}
