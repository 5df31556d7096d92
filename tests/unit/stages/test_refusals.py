"""What is refused before anything starts: by key, value and expectation. No cluster is needed to say no."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import (
    CredentialsError,
    DeadlineError,
    DiskFullError,
    IntegrityError,
    RunChangedError,
    RunFileError,
    StageOrderError,
)
from medfuncta_dist.fields.basis import MAP
from medfuncta_dist.fields.field_kinds import init_params
from medfuncta_dist.meta.learner import Trained
from medfuncta_dist.network.committed_network import commit_network
from medfuncta_dist.network.core_settings import trained_spec
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.run.frozen_run_file import fixed_part, freeze, thaw
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.stages.chain import run_stages
from medfuncta_dist.stages.preflight import check_network, check_training, pinned_snapshot
from medfuncta_dist.stages.readiness import require_ready
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.writers import write_medmnist


def run_file(folder: Path, **changes: Any) -> RunFile:
    whole = {
        "name": "refused",
        "storage": str(folder / "store"),
        "data": {"source": str(folder / "images.npz"), "shape": [8, 8], "private": str(folder / "private")},
        "train": {"batch": 4, "optimizer": "adamw"},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            whole.setdefault(section, {})[name] = value
        else:
            whole[section] = value
    return parse(yaml.safe_dump(whole))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A data set of eight training scans."""
    write_medmnist(tmp_path / "images.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    pack(run_file(tmp_path), map_here, lambda _: None)
    return tmp_path


def test_the_first_run_file_is_kept_resolved(tmp_path):
    run = run_file(tmp_path)
    store = ObjectStore(run.storage)
    kept, first = freeze(run, store, fence=ALONE)
    assert first
    assert parse(store.read("runs/refused/run.yaml").decode()) == kept
    assert [o.path for o in store.list("runs")] == ["runs/refused/run.yaml"]


def test_a_changed_run_file_is_refused_with_the_difference(tmp_path):
    store = ObjectStore(run_file(tmp_path).storage)
    freeze(run_file(tmp_path), store, fence=ALONE)
    with pytest.raises(RunChangedError, match=r"fit\.steps: 10 -> 5"):
        freeze(run_file(tmp_path, fit__steps=5), store, fence=ALONE)
    assert parse(store.read("runs/refused/run.yaml").decode()).fit.steps == 10


def test_a_run_that_is_older_than_the_choice_of_an_optimizer_goes_on_with_adamw(tmp_path):
    store = ObjectStore(run_file(tmp_path).storage)
    kept, _ = freeze(run_file(tmp_path), store, fence=ALONE)
    lines = dump(kept).splitlines()
    store.write("runs/refused/run.yaml", "\n".join(line for line in lines if "optimizer:" not in line).encode())
    freeze(run_file(tmp_path), store, fence=ALONE)
    with pytest.raises(RunChangedError, match=r"train\.optimizer: 'adamw' -> 'muon'"):
        freeze(run_file(tmp_path, train__optimizer="muon"), store, fence=ALONE)


def test_a_run_that_is_older_than_augmentation_goes_on_without(tmp_path):
    store = ObjectStore(run_file(tmp_path).storage)
    kept, _ = freeze(run_file(tmp_path), store, fence=ALONE)
    lines = dump(kept).splitlines()
    store.write("runs/refused/run.yaml", "\n".join(line for line in lines if "augment:" not in line).encode())
    freeze(run_file(tmp_path), store, fence=ALONE)
    with pytest.raises(RunChangedError, match=r"train\.augment: None -> {'flip': \[0\]"):
        freeze(run_file(tmp_path, train__augment={"flip": [0]}), store, fence=ALONE)


@pytest.mark.parametrize(
    "change",
    [
        {"cluster__workers": 2},
        {"train__zero_stage": 3},
        {"telemetry__images": True},
        {"evaluate__pictures": 1},
        {"fit__splits": ["test"]},
    ],
)
def test_what_changes_no_output_may_change(tmp_path, change):
    store = ObjectStore(run_file(tmp_path).storage)
    freeze(run_file(tmp_path), store, fence=ALONE)
    changed = run_file(tmp_path, **change)
    freeze(changed, store, fence=ALONE)
    kept, first = freeze(changed, store, fence=ALONE)
    assert not first
    assert store.read("runs/refused/run.yaml").decode() == dump(kept)
    assert kept.model_copy(update={"meta": changed.meta}) == changed
    assert fixed_part(changed) == fixed_part(run_file(tmp_path))


def test_a_run_that_was_refused_before_it_began_may_be_corrected(tmp_path):
    with pytest.raises(RunFileError, match="no file matches"):
        run_stages(run_file(tmp_path, data__source=str(tmp_path / "mistyped.npz")), ["pack"])
    store = ObjectStore(run_file(tmp_path).storage)
    assert freeze(run_file(tmp_path), store, fence=ALONE)
    with pytest.raises(RunFileError, match="no file matches"):
        run_stages(run_file(tmp_path), ["pack"])
    assert store.exists("runs/refused/run.yaml")  # not this call's: the run may have begun


def test_a_refused_first_run_lets_go_of_its_data_set_unless_something_was_trained_on_it(packed):
    run = run_file(packed)
    store = ObjectStore(run.storage)
    for trained in (False, True):
        if trained:
            store.write("runs/refused/checkpoints/commits/000000005-000001-20260101T000000-aaaa.json", b"{}")
        run, _ = freeze(run, store, fence=ALONE)
        pinned_snapshot(run, store, fence=ALONE)
        thaw(run, store, fence=ALONE)
        assert store.exists("runs/refused/pin.json") == trained
        assert not store.exists("runs/refused/run.yaml")


def test_storage_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(RunFileError, match="storage cannot be written") as caught:
        run_stages(run_file(tmp_path), ["pack"])
    assert caught.value.exit_code == 2
    assert "storage" in caught.value.where


@pytest.mark.parametrize("error", [DeadlineError, CredentialsError, DiskFullError])
def test_what_passes_is_no_mistake_of_the_run_file(tmp_path, monkeypatch, error):
    """As one, it would end all retries of a submitted job."""

    def refused(store: ObjectStore, path: str, data: bytes) -> None:
        raise error("not now", where=store.uri(path))

    monkeypatch.setattr(ObjectStore, "write", refused)
    with pytest.raises(error) as caught:
        run_stages(run_file(tmp_path), ["pack"])
    assert type(caught.value) is error


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(RunFileError, match="there is no stage 'polish'"):
        run_stages(run_file(tmp_path), ["pack", "polish"])


@pytest.mark.parametrize("stage", ["train", "fit", "evaluate"])
def test_a_stage_before_its_turn_is_refused(tmp_path, stage):
    with pytest.raises(StageOrderError, match="no committed snapshot") as caught:
        run_stages(run_file(tmp_path), [stage])
    assert "pack" in caught.value.do


def test_fit_before_train_is_refused(packed):
    with pytest.raises(StageOrderError, match="not trained yet"):
        run_stages(run_file(packed), ["fit"])


def test_a_wrong_start_is_refused_before_packing_and_may_be_corrected(tmp_path):
    """Whichever stage comes first: found after hours of packing, it could not be corrected any more."""
    write_medmnist(tmp_path / "images.npz", shape=(8, 8), counts={"train": 8, "test": 2})
    run = run_file(tmp_path, train__start_from="nobody")
    store = ObjectStore(run.storage)
    for stages in (["pack", "train"], ["train"]):
        with pytest.raises(StageOrderError, match=r"train\.start_from is nobody"):
            run_stages(run, stages)
        with pytest.raises(StageOrderError, match=r"train\.start_from is nobody"):
            require_ready(run, store, stages)
    assert not store.exists("runs/refused/run.yaml")
    assert not store.list("datasets")
    require_ready(run, store, ["pack"])
    run_stages(run_file(tmp_path), ["pack"])


def test_a_shape_that_is_not_the_shards_is_refused(packed):
    other = run_file(packed, name="other", data__dataset="refused", data__shape=[16, 16])
    with pytest.raises(RunFileError, match=r"data.shape is \[16, 16\].*hold \[8, 8\]"):
        run_stages(other, ["train"])


def test_a_batch_larger_than_the_training_split_is_refused(packed):
    run = run_file(packed, train__batch=9)
    with pytest.raises(RunFileError, match=r"train\.batch is 9, but the training split holds 8"):
        check_training(run, load_snapshot(ObjectStore(run.storage), "refused", None))


FIELDS: dict[str, dict[str, Any]] = {
    "siren": {"layers": 4, "hidden": 8, "latent": 4, "omega_first": 5.0, "omega_last": 9.0},
    "basis": {"kind": "basis", "layers": 3, "hidden": 8, "latent": 4, "features": 6, "omegas": [5.0, 6.0]},
}


@pytest.mark.parametrize(
    ("kind", "changes", "needles"),
    [
        ("siren", {"layers": 5}, ["field.layers is 5", "trained with 4"]),
        ("siren", {"latent": 5}, ["field.latent is 5", "trained with 4"]),
        ("siren", {"omega_last": 10.0}, ["field.omegas is [5.0,", "set field.omegas to [5.0,"]),
        ("siren", {"residual": False}, ["field.residual is False", "set field.residual to True"]),
        ("siren", FIELDS["basis"], ["field.kind is basis", "set field.kind to siren"]),
        ("basis", {"features": 7}, ["field.features is 7", "trained with 6"]),
        ("basis", {"latent": 5}, ["field.latent is 5", "trained with 4"]),
        ("basis", {"omegas": [5.0, 7.0]}, ["field.omegas is [5.0, 7.0]", "set field.omegas to [5.0, 6.0]"]),
        ("basis", {"kind": "siren", "features": None}, ["field.kind is siren", "set field.kind to basis"]),
    ],
)
def test_a_network_that_is_not_the_run_file_s_is_refused(packed, kind, changes, needles):
    run = run_file(packed, field=FIELDS[kind])
    store, spec = ObjectStore(run.storage), trained_spec(run)
    params = init_params(spec, torch.Generator().manual_seed(0))
    if kind == "basis":
        params[MAP] = torch.eye(6)[:, :4]
    snapshot = load_snapshot(store, run.dataset, None)
    commit_network(store, run, snapshot, Trained(spec, params), loss=None, psnr=None, fence=ALONE)
    check_network(run, store)
    with pytest.raises(RunFileError) as caught:
        check_network(run_file(packed, field=FIELDS[kind] | changes), store)
    assert all(needle in str(caught.value) for needle in needles)


def test_splits_that_can_not_be_fitted_are_refused_before_training(packed):
    run = run_file(packed, fit__splits=["train", "tset"])
    with pytest.raises(RunFileError, match="no split 'tset'") as caught:
        check_training(run, load_snapshot(ObjectStore(run.storage), "refused", None))
    assert caught.value.where == "fit.splits"


def test_a_run_goes_on_with_the_snapshot_it_began_with(packed):
    run = run_file(packed)
    store = ObjectStore(run.storage)
    pinned = pinned_snapshot(run, store, fence=ALONE).digest
    (packed / "more").mkdir()
    write_medmnist(packed / "more" / "later.npz", shape=(8, 8), counts={"train": 4}, seed=1)
    grown = run_file(packed, data__source=[str(packed / "images.npz"), str(packed / "more")])
    assert pack(grown, map_here, lambda _: None).snapshot_digest != pinned
    assert pinned_snapshot(run, store, fence=ALONE).digest == pinned
    with pytest.raises(RunChangedError, match=pinned):
        pinned_snapshot(run_file(packed, data__snapshot="0" * 64), store, fence=ALONE)


def test_scans_packed_otherwise_are_refused_unless_only_a_snapshot_is_named(packed):
    other = run_file(packed, name="other", data__dataset="refused", data__aspect="crop")
    with pytest.raises(RunChangedError, match=r"data\.aspect: crop in the run file, pad in the data set"):
        run_stages(other, ["train"])
    digest = load_snapshot(ObjectStore(other.storage), "refused", None).digest
    reuse = run_file(packed, name="reuse", data={"snapshot": digest, "dataset": "refused", "shape": [8, 8]})
    assert pinned_snapshot(reuse, ObjectStore(reuse.storage), fence=ALONE).digest == digest


def test_an_unknown_format_of_the_kept_run_file_is_refused(tmp_path):
    run = run_file(tmp_path)
    store = ObjectStore(run.storage)
    store.write("runs/refused/run.yaml", dump(run).replace("format_version: 1", "format_version: 9").encode())
    with pytest.raises(IntegrityError, match="format_version = 9"):
        freeze(run, store, fence=ALONE)


@pytest.mark.parametrize("root", ["s3://KEY:SECRET@bucket/x", "s3://KEY:SECRET@bucket"])
def test_credentials_in_a_storage_root_are_not_repeated(root):
    with pytest.raises(RunFileError, match="not an S3 location") as caught:
        ObjectStore(root)
    assert "SECRET" not in str(caught.value)
