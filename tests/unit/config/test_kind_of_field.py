"""The kind of field decides defaults, and which keys a run file may have."""

from __future__ import annotations

import re
from typing import Any

import pytest

from medfuncta_dist.config.load import dump, parse, parse_kept
from medfuncta_dist.config.presets import KIND_DEFAULTS, PRESETS
from medfuncta_dist.errors import RunFileError

SMALLEST = "{name: kinds, storage: 's3://bucket/kinds', data: {source: 's3://archive/*.csv', shape: [8, 8]}}"
BASIS = "field.kind=basis"
SMALL = "field.latent=16"
SHAPES = {"1d": [187], "2d": [64, 64], "3d": [32, 32, 32]}
"""That presets are for."""


def test_a_basis_field_has_defaults_of_its_own_and_a_siren_those_of_the_sections():
    plain, basis = parse(SMALLEST), parse(SMALLEST, [BASIS, SMALL])
    for section, keys in KIND_DEFAULTS["basis"].items():
        for key, value in keys.items():
            assert getattr(getattr(basis, section), key) == value, key
    assert parse(SMALLEST, ["field.kind=siren"]) == plain
    assert plain.fit.method != "exact"
    assert (plain.context_sets, basis.context_sets) == (plain.meta.inner_steps, 1)


def test_presets_and_the_file_go_over_the_kinds_defaults():
    run = parse(
        SMALLEST, [BASIS, "preset=2d", "data.shape=[64, 64]", "fit.method=exact", "field.layers=4", "train.rate=0.5"]
    )
    assert (run.field.layers, run.train.rate) == (4, 0.5)
    assert run.field.latent == PRESETS["2d"]["field"]["latent"]
    assert run.train.clip == KIND_DEFAULTS["basis"]["train"]["clip"]


def test_dump_and_load_are_inverse_for_a_basis_field():
    run = parse(SMALLEST, [BASIS, "field.latent=16", "field.features=32", "fit.keep=8", "meta.ridge=0.01"])
    assert parse(dump(run)) == run
    assert (run.field.feature_count, run.fit.keep, run.meta.ridge) == (32, 8, 0.01)


@pytest.mark.parametrize(
    ("overrides", "features"),
    [
        (["field.latent=16"], 64),
        (["field.latent=200"], 588),  # three quarters of 28 x 28
        (["field.latent=700"], 700),
        (["preset=2d", "data.shape=[64, 64]"], 3072),
        (["preset=3d", "data.shape=[32, 32, 32]"], 8192),
        (["preset=3d", "data.shape=[32, 32, 32]", "field.latent=256"], 1024),
        (["preset=2d", "data.shape=[64, 64]", "data.channels=3"], 8192),
        (["preset=2d", "data.shape=[64, 64]", "field.features=2050"], 2050),
    ],
    ids=str,
)
def test_the_number_of_features_follows_from_latent_and_scan_unless_given(overrides: list[str], features: int):
    run = parse(SMALLEST, [BASIS, "data.shape=[28, 28]", *overrides])
    assert run.field.features == run.field.feature_count == features
    assert parse(dump(run)) == run


def test_a_frozen_run_without_a_number_of_features_has_as_many_as_its_latent_has_numbers():
    run = parse(SMALLEST, [BASIS, SMALL])
    kept = parse_kept(dump(run).replace(f"features: {run.field.features}", "features: null"))
    assert (kept.field.features, kept.field.feature_count) == (None, 16)


@pytest.mark.parametrize(
    ("overrides", "needles"),
    [
        ([BASIS, "fit.method=sgd"], ["fit.method is sgd", "kind is basis", "exact"]),
        ([BASIS, "fit.method=gauss-newton"], ["fit.method is gauss-newton", "exact"]),
        (["fit.method=exact"], ["fit.method is exact", "kind is siren", "sgd, momentum or gauss-newton"]),
        ([BASIS, "meta.inner_rate=0.1"], ["meta.inner_rate = 0.1 would do nothing with field.kind basis: leave out"]),
        ([BASIS, "meta.rate_policy=learned"], ["meta.rate_policy"]),
        ([BASIS, "meta.compile=on"], ["meta.compile"]),
        ([BASIS, "field.modulate_first=true"], ["field.modulate_first"]),
        ([BASIS, "fit.rate=0.1"], ["fit.rate"]),
        ([BASIS, "fit.target_psnr=30"], ["fit.target_psnr"]),
        ([BASIS, "fit.rescale=0.5"], ["fit.rescale"]),
        ([BASIS, "fit.full_steps=1"], ["fit.full_steps"]),
        ([BASIS, "fit.steps=5", "fit.damping=2"], ["fit.steps = 5 and fit.damping = 2.0 would do nothing"]),
        ([BASIS, "field.residual=false"], ["field.residual = False"]),
        ([BASIS, "meta.inner_steps=3"], ["meta.inner_steps = 3"]),
        ([BASIS, "meta.compiled=true"], ["meta.compiled = True"]),
        ([BASIS, "fit.momentum=0.1"], ["fit.momentum"]),
        ([BASIS, "fit.curvature_ratio=0.5"], ["fit.curvature_ratio"]),
        ([BASIS, "fit.closed_form=true"], ["fit.closed_form"]),
        (["fit.keep=8"], ["fit.keep = 8 would do nothing with field.kind siren"]),
        (["fit.ridge=0.1", "meta.ridge=0.1"], ["meta.ridge = 0.1 and fit.ridge = 0.1"]),
        (["fit.storage_loss=0.1"], ["fit.storage_loss = 0.1"]),
        (["field.features=4096"], ["field.features = 4096 would do nothing with field.kind siren"]),
        (["preset=2d", "field.kind=siren"], ["preset 2d is of a basis field", "kind is siren", "preset to siren-2d,"]),
        (["preset=siren-2d", BASIS], ["preset siren-2d is of a siren field", "kind is basis", "preset to 2d,"]),
        (["preset=paper-2d", BASIS], ["preset paper-2d is of a siren field", "preset to 2d,"]),
        ([BASIS, "field.latent=16", "fit.keep=17"], ["fit.keep is 17", "16 numbers"]),
        ([BASIS, "field.latent=16", "fit.keep=0"], ["fit.keep", "greater than 0"]),
        ([BASIS, "field.latent=16", "field.features=8"], ["8 features cannot give 16 numbers"]),
        ([BASIS, "field.latent=65"], ["field.latent is 65", "has 64 values (data.shape [8, 8]", "at most 64"]),
        (["preset=2d", "data.shape=[28, 28]"], ["field.latent is 2048", "784 values", "at most 784"]),
        (["preset=3d", "data.shape=[16, 16, 16]"], ["field.latent is 8192", "at most 4096"]),
        ([BASIS, "data.shape=[28, 28]"], ["field.latent is 2048", "at most 784"]),
        ([BASIS, "data.shape=[400, 400]", "field.latent=100000"], ["100000 features", "447.1 GiB", "field.features"]),
        ([BASIS, "field.latent=8", "field.features=9500"], ["9500 features", "at most 4 GiB", "field.features"]),
        ([BASIS, "data.shape=[256, 256, 256]", "field.latent=8"], ["batches of 64", "train.batch"]),
        (["preset=3d", "data.shape=[64, 64, 64]"], ["8192 numbers", "262144 values", "16.0 GiB", "fit.keep"]),
        ([BASIS, "meta.ridge=0"], ["meta.ridge", "greater than 0"]),
        ([BASIS, "fit.ridge=-1"], ["fit.ridge", "greater than 0"]),
        (["field.kind=wavelet"], ["field.kind", "'wavelet'", "siren"]),
        (["field.kind=[basis]"], ["field.kind"]),
    ],
)
def test_keys_of_the_other_kind_are_refused_in_words(overrides: list[str], needles: list[str]):
    with pytest.raises(RunFileError) as caught:
        parse(SMALLEST, overrides)
    assert caught.value.exit_code == 2
    for needle in needles:
        assert needle in str(caught.value)


def test_a_key_of_the_other_kind_may_have_its_default_or_be_off():
    for off in ("meta.compile=off", "meta.compiled=false", "fit.damping=1", "fit.closed_form=false", "fit.rate=null"):
        assert parse(SMALLEST, [BASIS, SMALL, off]).field.kind == "basis"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_goes_with_its_kind_of_field_only(name: str):
    shape = f"data.shape={SHAPES[name[-2:]]}"
    kind = parse(SMALLEST, [f"preset={name}", shape]).field.kind  # and no key of the other kind is refused
    assert parse(SMALLEST, [f"preset={name}", shape, f"field.kind={kind}"]).field.kind == kind
    other = "siren" if kind == "basis" else "basis"
    with pytest.raises(RunFileError, match=f"preset {name} is of a {kind} field") as caught:
        parse(SMALLEST, [f"preset={name}", shape, f"field.kind={other}"])
    better = re.findall(r"set preset to (\S+),", str(caught.value))[0]
    assert parse(SMALLEST, [f"preset={better}", shape, f"field.kind={other}"]).preset == better


@pytest.mark.parametrize("field", [None, 7, "basis", ["basis"], {"kind": {"basis": 1}}], ids=str)
def test_a_field_section_that_is_none_is_refused_in_words(field: Any):
    with pytest.raises(RunFileError):
        parse(SMALLEST, [f"field={field if field is not None else 'null'}"])


def test_a_latent_may_have_as_many_numbers_as_a_scan_has_values():
    assert parse(SMALLEST, [BASIS, "field.latent=64"]).field.latent == 64
    assert parse(SMALLEST, [BASIS, "field.latent=128", "data.channels=2"]).field.latent == 128
    assert parse(SMALLEST, [BASIS, "field.latent=32", "field.features=128"]).field.features == 128
    assert parse(SMALLEST, ["field.latent=4096"]).field.latent == 4096  # a SIREN's shifts phases, not values


def test_fewer_stored_numbers_need_less_memory():
    assert parse(SMALLEST, ["preset=3d", "data.shape=[64, 64, 64]", "fit.keep=2048"]).fit.keep == 2048


def test_a_jacobian_that_would_not_fit_is_no_matter_for_a_basis_field():
    large = ["data.shape=[512, 512]", "field.hidden=1024", "field.latent=16"]
    assert parse(SMALLEST, [BASIS, *large]).field.hidden == 1024
    with pytest.raises(RunFileError, match="Jacobian"):
        parse(SMALLEST, [*large, "fit.closed_form=true"])


@pytest.mark.parametrize(
    "sections",
    [
        "data: words",
        "data: [1, 2]",
        "data: {source: x, shape: 8}",
        "data: {source: x, shape: [8, eight]}",
        "data: null",
    ],
)
def test_what_the_number_of_features_would_follow_from_is_refused_in_words_where_it_is_wrong(sections: str):
    with pytest.raises(RunFileError, match="data"):
        parse(f"name: kinds\nstorage: s3://bucket/kinds\nfield: {{kind: basis, latent: 16}}\n{sections}\n")
