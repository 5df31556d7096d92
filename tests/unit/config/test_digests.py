"""Digests that storage holds for years: a run file must give the one that it gave when its run began.

A new key, or another default, changes some of them on purpose; a key that moves, or says its meaning in another way,
must not.
"""

from __future__ import annotations

from typing import Any

import pytest

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fitting.fit_driver import fit_digest
from medfuncta_dist.shards.data_contract import contract_of
from medfuncta_dist.storage.digest import digest_json


def run_file(*overrides: str) -> RunFile:
    text = "{name: small, storage: 's3://bucket/m', data: {source: 's3://archive/*.csv', shape: [8, 8]}}"
    return parse(text, overrides)


SMALLEST = run_file()
MANY = run_file(
    "data.slices={axis: 1}",
    "data.slabs={}",
    "data.intensity={mode: range, low: -1000, high: 1000}",
    "data.private=/x",
    "meta.chunk_points=9",
    "meta.products=torch",
    "train.seed=3",
    "train.zero_stage=0",
    "fit.rate=0.5",
    "fit.splits=[train, val]",
    "evaluate.note=x",
    "cluster.workers=3",
)


def digests(run: RunFile) -> dict[str, str]:
    return {
        "whole": run.digest(),
        "field": run.digest("field"),
        "results": run.results_digest,
        "fit": fit_digest(run),
        "fixed": digest_json(run.digested(lambda key: key.fixed)),
        "contract": digest_json(contract_of(run.data)),
        "public": digest_json(public(run)),
    }


def public(run: RunFile) -> dict[str, Any]:
    """As ``public_config``, without keys that came later."""
    sections = run.digested(lambda key: key.public)
    return {**sections.pop("data"), **sections}


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (
            SMALLEST,
            {
                "whole": "d094cb67b1c7b195358be79b2eca0ff9df77e21203ccc96f0c6a2e6305510ae5",
                "field": "1be6b44260b21a20a3ae6178aa1b2fe24c08161f1095d7cde4a4a2914342e666",
                "results": "371a616061c498f286292ab8b53a944f5047ff35199185d7ab8c028fb2d17f4b",
                "fit": "9a3d6ab398c276c0425d9bb2dd69567f741ec09181a43caf5726b75332fb293f",
                "fixed": "66eaf2f3b4cfff467cf6fc50018ba557f233d08868b710e6c8ee78e5b243bcf4",
                "contract": "b14b03a4af6e95eb3816f7c94999754794c8022b73d53ab3298f59105d011845",
                "public": "877cff5e7e8a1e349f50fd0a8e5e7b326dd2e11d1b6ad5e28c430d00a4db42ad",
            },
        ),
        (
            MANY,
            {
                "whole": "cf4868935bd65384f24fe4a73f1a140492d284d0e1bf8c9fb89e587d24c4b0f0",
                "field": "1be6b44260b21a20a3ae6178aa1b2fe24c08161f1095d7cde4a4a2914342e666",
                "results": "f4316476c7cc06dba31f7b9eccca85bed242476f89f9f212ed66f605b79f3fdc",
                "fit": "31c7797dfda7c0579c8006021eba8ef7162029adc28e4579ecd08d12548821d3",
                "fixed": "b09d9de79de6906fd825520036e2ed01e74567d0afe8204d8a1c3d4aeb330d98",
                "contract": "48e05068a7ace38d9cb502703e32ec108139feb2ec455f5258b2621db3b1c902",
                "public": "6794841cecd8c74ba43a9f6f8279cb32b79ce30358477d3ff0e728fffee4c31e",
            },
        ),
    ],
    ids=["smallest", "many keys"],
)
def test_a_run_file_gives_the_digests_that_it_gave(run, expected):
    assert digests(run) == expected


def test_a_key_outside_the_fit_section_is_part_of_the_fit_digest_where_it_says_so():
    assert fit_digest(run_file("train.seed=1")) != fit_digest(SMALLEST)
    assert fit_digest(run_file("meta.inner_rate=0.5")) != fit_digest(SMALLEST)  # fitting takes it by default
    assert fit_digest(run_file("fit.splits=[test]")) == fit_digest(SMALLEST)
    assert fit_digest(run_file("train.steps=7")) == fit_digest(SMALLEST)


@pytest.mark.parametrize(
    ("given", "digest"),
    [
        ([], "9a3d6ab398c276c0425d9bb2dd69567f741ec09181a43caf5726b75332fb293f"),
        (["fit.scans_per_task=1024"], "9a3d6ab398c276c0425d9bb2dd69567f741ec09181a43caf5726b75332fb293f"),
        (["fit.chosen_scans_per_task=700"], "9a3d6ab398c276c0425d9bb2dd69567f741ec09181a43caf5726b75332fb293f"),
        (["fit.scans_per_task=32"], "c5d987db29867333f64b52eb4d5283603cdb0e986f7be21d5d4a23c48c4509cf"),
        (["fit.scans_per_task=700"], "6eaf9206c331d861150d6b7292a990b6512535467e69e23eaedd851a5bd4c21d"),
    ],
    ids=["open", "the earlier default", "open, and chosen by the run", "given", "given as another run chose"],
)
def test_a_table_is_named_by_the_scans_per_task_that_are_given_and_by_none_that_are_measured(given, digest):
    assert fit_digest(run_file(*given)) == digest


def test_resources_make_no_other_request():
    for free in ("cluster.workers=3", "telemetry.images=true", "kubernetes.namespace=other"):
        assert run_file(free).results_digest == SMALLEST.results_digest
    for deciding in ("evaluate.note=x", "train.seed=1", "train.augment={flip: [0]}", "data.dataset=other"):
        assert run_file(deciding).results_digest != SMALLEST.results_digest
