"""The benchmark that chooses the presets: arms are valid, splits do not leak, what is done is kept."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import preset_scans
from benchmarks.common import Kept
from benchmarks.presets import (
    ARMS,
    PLAIN,
    SMALL,
    claims_of,
    decibel,
    line,
    of_equal_minutes,
    preferred,
    run_of,
    trained,
    validated,
)
from medfuncta_dist.config.load import parse
from tests.unit.benchmarks.test_benchmarks import result_of


def test_presets() -> None:
    found = result_of("presets")
    assert set(found["results"]) == {f"{axes}/{arm}" for axes in ("1d", "2d", "3d") for arm in (PLAIN, "paper")}
    assert all(0 < result["validation"] < 100 for result in found["results"].values())


def test_every_arm_is_a_valid_run_and_differs_from_the_plain_one() -> None:
    for axes in SMALL:
        shape = [8] * int(axes[0]) if axes[0].isdigit() else [8, 8]
        plain = run_of(PLAIN, axes, shape, 4)
        for name in (name for name, arm in ARMS.items() if axes in arm.only and name != PLAIN):
            run = run_of(name, axes, shape, 4)
            assert run != plain
            assert run.field.latent == plain.field.latent


def test_rows_of_two_splits_share_no_sample() -> None:
    ends = [tuple(int(s * 1000 / preset_scans.DECIMATION) for s in block) for block in preset_scans.SECONDS.values()]
    assert all(before[1] < after[0] for before, after in pairwise(ends))
    scans = preset_scans.electrocardiogram()
    assert scans.train.shape[1:] == (187, 1)
    assert 0 <= scans.test.min() < scans.test.max() <= 1


def test_slabs_of_two_splits_share_no_voxel() -> None:
    taken = np.zeros(233, int)
    for slabs in preset_scans.SLABS.values():
        for first, end in slabs:
            taken[first:end] += 1
    assert taken.max() == 1
    assert (taken == 0).sum() == 8  # two voxels on each side of a held-out slab


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    Kept(path).once("1d/a", lambda: {"validation": 1.0})
    again = Kept(path)
    again.once("1d/a", lambda: pytest.fail("it was done already"))
    again.once("1d/b", lambda: {"validation": 2.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"1d/a": {"validation": 1.0}},
        {"1d/b": {"validation": 2.0}},
    ]


def test_a_dearer_arm_gets_fewer_steps_in_the_same_time() -> None:
    scans, kept = preset_scans.made_scans(1), Kept(None)
    kept.results[f"1d/{PLAIN}"] = {"seconds": 1e-6}
    found = validated(PLAIN, "1d", scans, kept, short=True)
    assert (found["steps"], found["steps_in_same_time"]) == (4, 1)
    assert found["validation"] != found["validation_in_same_time"]


def test_what_the_clock_cannot_tell_apart_is_compared_after_equal_steps() -> None:
    plain = {
        "seconds": 30.0,
        "steps": 300,
        "validation": 20.0,
        "steps_in_same_time": 300,
        "validation_in_same_time": 20.0,
    }
    again = {"steps_in_same_time": 400, "validation_in_same_time": 22.0}
    results = {
        f"1d/{PLAIN}": plain,
        "1d/near": plain | {"seconds": 23.0} | again,
        "1d/far": plain | {"seconds": 15.0} | again,
    }
    found = of_equal_minutes("1d", results)
    assert {name: result["steps_in_same_time"] for name, result in found.items()} == {
        PLAIN: 300,
        "near": 300,
        "far": 400,
    }
    assert found["near"]["validation_in_same_time"] == 20.0


def test_the_choice_is_by_validation_scans_after_equal_minutes() -> None:
    results = {"a": {"validation_in_same_time": 20.0, "validation": 30.0}, "b": {"validation_in_same_time": 25.0}}
    assert preferred(results) == "b"
    assert preferred({}) is None


def test_claims_and_the_line_tell_the_mean_over_seeds() -> None:
    end = {
        "chosen": "muon",
        "test": [30.0, 31.0],
        "published": "paper",
        "published_test": 20.0,
        "components": 64,
        "pca_test": 33.0,
        "mean_scan_test": 10.0,
        "scans": {"train": 5, "val": 2, "test": 2},
    }
    assert [(claim.measured, claim.met) for claim in claims_of("1d", end)] == [(-2.5, False), (10.5, True)]
    for text in ("'muon' 30.00, 31.00 dB (2 seeds)", "'paper' 20.00", "PCA of 64 components 33.00", "5 train"):
        assert text in line("1d", end)


def test_a_newcomers_first_beats_are_far_better_than_their_mean() -> None:
    scans = preset_scans.electrocardiogram()
    text = f"name: beats\nstorage: /none\npreset: 1d\ndata: {{source: none, shape: {list(scans.shape)}}}\n"
    run = parse(text, ["train.steps=100", "train.batch=16"])
    mean = decibel(scans.val - scans.train.mean(0))
    assert trained(run, scans.train).psnr(scans.val) > mean + 10
