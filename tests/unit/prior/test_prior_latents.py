"""What a prior is trained on: the table's training latents, their digest, and the classes that labels make."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.fitting.fit_driver import fit, locate_table
from medfuncta_dist.fitting.latent_ledger import load_table
from medfuncta_dist.latents.table_format import latents_of
from medfuncta_dist.prior import prior_latents
from medfuncta_dist.prior.prior_driver import identity_of
from medfuncta_dist.prior.prior_latents import Classes, find_source, read_splits
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.forget.archives import write_run_file
from tests.unit.latents.fitted import COUNTS, packed, ready


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    found = ready(tmp_path, kind="basis")
    write_run_file(found)
    fit(found, map_here)
    return found


def test_latents_are_those_of_the_split_and_the_digest_is_theirs(run: RunFile, tmp_path: Path) -> None:
    store = ObjectStore(run.storage)
    source = find_source(run, store)
    assert source.held_out == ("test",)
    train = read_splits(store, source, ["train"])
    rows = load_table(store, locate_table(run, store).folder, ["train"])
    assert torch.equal(train.latents, torch.from_numpy(latents_of(rows)))
    assert len(train.latents) == COUNTS["train"]
    assert train.labels == [labels[0] for labels in rows["labels"].to_pylist()]
    packed(run, tmp_path, seed=1)
    fit(run, map_here)
    grown = find_source(run, store)
    assert set(source.parts) < set(grown.parts)
    assert grown.digest != source.digest


def test_a_prior_is_another_where_it_is_judged_by_other_scans(run: RunFile, tmp_path: Path) -> None:
    store = ObjectStore(run.storage)
    source = find_source(run, store)
    packed(run, tmp_path, seed=1, counts={"test": 4})
    fit(run, map_here)
    more = find_source(run, store)
    assert more.parts == source.parts
    assert set(more.held_out_parts) > set(source.held_out_parts)
    assert identity_of(run, more) != identity_of(run, source)


def test_a_table_that_cannot_train_or_judge_a_prior_is_refused(
    run: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(run.storage)
    alone = run.model_copy(update={"fit": run.fit.model_copy(update={"splits": ["test"]})})
    with pytest.raises(RunFileError, match="no training scan has a latent"):
        find_source(alone, store)
    monkeypatch.setattr(prior_latents, "LARGEST", 100)
    with pytest.raises(RunFileError, match="which every worker would hold"):
        find_source(run, store)
    shorter = run.model_copy(update={"fit": run.fit.model_copy(update={"keep": 1})})
    monkeypatch.setattr(prior_latents, "LARGEST", 4 * COUNTS["train"])
    fit(shorter, map_here)
    assert find_source(shorter, store).held_out == ("test",)
    (tmp_path / "other").mkdir()
    with pytest.raises(StageOrderError):
        find_source(run.model_copy(update={"name": "other"}), store)


def test_classes_are_the_labels_of_training_scans() -> None:
    classes = Classes.of([3, 1, None, 3, 3])
    assert (classes.labels, classes.counts, classes.unlabelled, classes.none) == ((1, 3), (1, 3), 1, 2)
    assert classes.indices([1, 3, None, 8]).tolist() == [0, 1, 2, 2]
    assert [classes.label(index) for index in range(3)] == [1, 3, None]
    assert Counter(classes.drawn((row + 0.5) / 500) for row in range(500)) == {0: 100, 1: 300, 2: 100}
    assert Classes.of([None, None]).drawn(0.7) == 0
    assert Classes.of(list(range(2000))).labels == ()
    assert Classes.of(list(range(2000))).unlabelled == 2000
