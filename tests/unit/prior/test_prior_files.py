"""A prior's two files and its record: equal priors give equal bytes, and whatever is damaged is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import FormatVersionError, IntegrityError, LostObjectError, StageOrderError
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.integrity.verify import PARTS
from medfuncta_dist.prior.drawing import draw
from medfuncta_dist.prior.prior_files import Prior, committed_prior, load_prior, record_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.forget.archives import write_run_file
from tests.unit.latents.fitted import ready
from tests.unit.prior.priors import committed, random_prior


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    found = ready(tmp_path, kind="basis")
    write_run_file(found)
    fit(found, map_here)
    return found


def test_a_prior_is_what_was_committed(run: RunFile) -> None:
    store = ObjectStore(run.storage)
    assert committed_prior(store, run.name) is None
    prior, record = committed(run)
    assert committed_prior(store, run.name) == record
    again = load_prior(store, run.name, record)
    assert again.digest == prior.digest == record.digest
    assert (again.spec, again.classes, again.appearance) == (prior.spec, prior.classes, prior.appearance)
    assert torch.equal(draw(again, 3, seed=5).whitened, draw(prior, 3, seed=5).whitened)
    assert random_prior(run)[0].weights == prior.weights


def test_no_file_of_a_prior_holds_a_key_of_a_scan(run: RunFile) -> None:
    from tests.unit.forget.archives import latents

    prior, _ = committed(run)
    record = ObjectStore(run.storage).read(record_path(run.name))
    for key in latents(run):
        assert key[:12].encode() not in prior.description + record


def test_damage_is_refused_by_name(run: RunFile) -> None:
    prior, _ = random_prior(run)
    body = json.loads(prior.description)

    def read(changes: dict[str, object], weights: bytes = prior.weights) -> Prior:
        return Prior.from_files(weights, json.dumps(body | changes).encode(), "here")

    with pytest.raises(IntegrityError, match="not the file that"):
        read({}, prior.weights[:-1] + b"\0")
    with pytest.raises(FormatVersionError, match="format_version 2"):
        read({"format_version": 2})
    with pytest.raises(IntegrityError, match="does not describe a prior"):
        read({"kind": "network"})
    with pytest.raises(IntegrityError, match="differ"):
        read({"spec": body["spec"] | {"width": 9}})
    with pytest.raises(IntegrityError, match="no valid judgement"):
        read({"judgement": None})
    with pytest.raises(IntegrityError, match="unknown field"):
        read({"classes": body["classes"] | {"names": []}})


def test_verify_reads_the_prior(run: RunFile) -> None:
    store, verify = ObjectStore(run.storage), PARTS["prior"]
    with pytest.raises(StageOrderError, match="no prior"):
        verify(run, store)
    prior, record = committed(run)
    assert verify(run, store)[0] == {"digest": prior.digest}
    path = f"runs/{run.name}/prior/{record.digest}/prior.safetensors"
    store.write(path, prior.weights[:-4] + b"abcd")
    with pytest.raises(IntegrityError, match="not the file that"):
        verify(run, store)
    store.delete(path)
    with pytest.raises(LostObjectError, match="a file of the prior is missing"):
        load_prior(store, run.name, record)
