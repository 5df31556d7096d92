from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.config.load import difference, dump, load, load_to_pack, parse, parse_kept
from medfuncta_dist.config.presets import PRESETS
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError

SMALLEST = """
name: ecg-mitbih
storage: s3://bucket/medfuncta
data: {source: "s3://archive/*.csv", shape: [187]}
"""


def test_the_smallest_run_file_is_whole():
    run = parse(SMALLEST)
    assert run.dataset == "ecg-mitbih"
    assert run.data.points == 187
    assert run.fit_rate == run.inner_rate == 2000 / run.field.omega_last**2


def test_the_inner_rate_follows_the_steepest_omega_unless_given():
    assert parse(SMALLEST + "field: {layers: 3, omegas: [50.0, 20.0]}\n").inner_rate == pytest.approx(0.8)
    assert parse(SMALLEST + "meta: {inner_rate: 0.3}\n").inner_rate == 0.3


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_presets_keep_the_published_rates(dims: int):
    run = parse(SMALLEST.replace("[187]", str([8] * dims)) + f"preset: medfuncta-{dims}d\n")
    assert (run.inner_rate, run.train.rate, run.train.rate_by_omega) == (1e-2, 3e-6, False)
    assert (run.meta.rate_policy, run.train.optimizer) == ("scalar", "adamw")


@pytest.mark.parametrize(("optimizer", "by_default", "allowed"), [("adamw", 1, range(4)), ("muon", 0, [0])])
def test_the_zero_stage_follows_the_optimizer_unless_given(optimizer: str, by_default: int, allowed: list[int]):
    assert parse(SMALLEST, [f"train.optimizer={optimizer}"]).train.stage == by_default
    for stage in allowed:
        assert parse(SMALLEST, [f"train.optimizer={optimizer}", f"train.zero_stage={stage}"]).train.stage == stage


def test_a_kept_run_file_lacks_what_came_later_and_nothing_else(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medfuncta_dist.config.load.BEFORE", {"train": {"steps": 7, "rate": 0.5}})
    kept = parse_kept(SMALLEST + "train: {rate: 0.25}\n")
    assert (kept.train.steps, kept.train.rate) == (7, 0.25)
    assert parse(SMALLEST).train.steps != 7


def test_order_is_preset_then_file_then_override():
    text = SMALLEST + "preset: medfuncta-1d\nfield: {latent: 32}\n"
    assert parse(text).field.layers == PRESETS["paper-1d"]["field"]["layers"]
    assert parse(text).field.latent == 32
    assert parse(text, ["field.latent=16"]).field.latent == 16


def test_every_preset_is_valid():
    for name in PRESETS:
        axes = int(name.removesuffix("d")[-1])
        shape = ([187], [64] * 2, [32] * 3)[axes - 1]
        assert parse(SMALLEST, [f"preset={name}", f"data.shape={shape}"]).preset == name
        with pytest.raises(RunFileError, match="is for other scans"):
            parse(SMALLEST, [f"preset={name}", f"data.shape={[8] * (axes % 3 + 1)}"])


def test_numbers_with_an_exponent_are_numbers():
    assert parse(SMALLEST + "train: {rate: 1e-3}\n").train.rate == 1e-3


def test_dump_and_load_are_inverse():
    run = parse(SMALLEST, ["preset=medfuncta-2d", "data={source: x, shape: [8, 8], slices: {axis: 1}, slabs: {}}"])
    assert parse(dump(run)) == run


@pytest.mark.parametrize(
    ("overrides", "needles"),
    [
        (["train.stepz=3"], ["train.stepz", "no such key"]),
        (["train.steps=many"], ["train.steps", "'many'", "integer"]),
        (["train.steps=0"], ["train.steps", "0", "greater than 0"]),
        (["cluster.workers=9", "train.batch=4"], ["cluster.workers is 9", "train.batch = 4"]),
        (["data.shape=[8]", "data.slices={axis: 1}"], ["slices are two-dimensional"]),
        (["data.shape=[8, 8]", "data.spacing=[2.0]"], ["spacing has 1 numbers, but shape has 2 axes"]),
        (["data.shape=[8]", "data.spacing=[2.0]"], ["spacing is for images"]),
        (["data.shape=[8, 8]", "data.spacing=[2.0, 0]"], ["data.spacing"]),
        (["data.shape=[8, 8]", "data.spacing=[2, 2]", "data.aspect=crop"], ["leave aspect out"]),
        (["data.source=pipe:cat x"], ["data.source", "s3://"]),
        (["data.intensity={mode: range, low: 2, high: 1}"], ["low must be below high"]),
        (["name=Bad Name"], ["name", "'Bad Name'", "lowercase"]),
        (["data.snapshot=abc"], ["data.snapshot", "64 lowercase hex"]),
        (["field={layers: 4, omegas: [1, 2]}"], ["omegas has 2 entries", "3"]),
        (["preset=huge"], ["preset", "'huge'", "medfuncta-1d"]),
        (["meta.selection_ratio=1.5"], ["meta.selection_ratio", "1.5"]),
        (["data.shape=[8, 8]", "data.slices={}", "data.slabs={split: train}"], ["slabs", "split of their own"]),
        (["data.group=hospital"], ["data.group", "'hospital'", "'patient' or 'source'"]),
        (["data.group={path: 'pat'}"], ["data.group", "expected one group in parentheses", "found 0"]),
        (["data.group={path: '(pat'}"], ["data.group", "not a regular expression"]),
        (["data.group={path: '(a)', table: x.csv}"], ["data.group", "give either path or table"]),
        (["data.group={path: '(a)', split: fold}"], ["data.group", "columns of a table"]),
        (["data.shape=[8, 8]", "data.slices={}", "data.slabs={}", "data.group=patient"], ["slabs part each volume"]),
        (
            ["data.source=null", "data.splits={train: x}", "data.group={table: t.csv, split: s}"],
            ["splits and group.split both give"],
        ),
        (["data.fractions={val: 1.0}"], ["fractions must contain train"]),
        (["data.dataset=../other"], ["data.dataset", "'../other'", "lowercase"]),
        (["data.source=[]"], ["data.source", "expected a local path"]),
        (["storage=gs://bucket"], ["storage", "'gs://bucket'", "s3://bucket/prefix or a local folder"]),
        (["fit.min_psnr=.nan"], ["fit.min_psnr", "finite"]),
        (["train.optimizer=sgd"], ["train.optimizer", "'sgd'", "adamw", "muon"]),
        (["train.optimizer=muon", "train.zero_stage=2"], ["zero_stage 2", "zero_stage to 0", "optimizer to adamw"]),
        (["data.intensity={mode: range, low: -.inf, high: 1}"], ["data.intensity.low", "finite"]),
        (["data.shape=[8, 8]", "train.augment={flip: [0, 2]}"], ["train.augment.flip names axis 2", "[8, 8]"]),
        (["train.augment={flip: [0, 0]}"], ["train.augment.flip", "[0, 0]", "at most once"]),
        (["train.augment={flip: [-1]}"], ["train.augment.flip", "-1", "greater than or equal to 0"]),
        (["train.augment.affine=0.5"], ["train.augment.affine", "0.5", "less than or equal to 0.3"]),
        (["train.augment.turn=1"], ["train.augment.turn", "no such key"]),
    ],
)
def test_an_invalid_file_is_refused_by_key_value_and_expectation(overrides, needles):
    with pytest.raises(RunFileError) as caught:
        parse(SMALLEST, overrides)
    assert caught.value.exit_code == 2
    for needle in needles:
        assert needle in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "- a\n- b\n", "name: [", "name: a\nname: b\n", "name: !!python/object:os.system x\n", "a: 1", "[" * 5000],
)
def test_what_is_not_a_run_file_is_refused(text):
    with pytest.raises(RunFileError):
        parse(text)


def aliases_of_aliases(line: str) -> str:
    """Ten lines, each holding ten times what the one before holds."""
    lines = [line.format(name=chr(98 + i), many=", ".join([f"*{chr(97 + i)}"] * 10)) for i in range(10)]
    return "a: &a {x: 1}\n" + "".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        aliases_of_aliases("{name}: &{name} [{many}]\n"),
        aliases_of_aliases("{name}: &{name} {{<<: [{many}]}}\n"),
        "a: &a [*a]",
        "[" + "1," * 500_000 + "]",
    ],
    ids=["aliases", "merges", "itself", "list"],
)
def test_a_bomb_is_refused_before_it_goes_off(text):
    began = time.process_time()
    with pytest.raises(RunFileError, match="more than 50000 values"):
        parse(text)
    assert time.process_time() - began < 10  # the list takes 2 s on one slow core


@pytest.mark.parametrize(
    "value", ["2026-13-45", "!!bool maybe", "!!int ''", "9" * 5000, "2026-01-01 00:00:00 +99:99", "0x" + "f" * 9999]
)
def test_what_yaml_cannot_convert_is_refused(value):
    with pytest.raises(RunFileError):
        parse(SMALLEST.replace("ecg-mitbih", value))


def test_an_error_does_not_repeat_a_whole_file():
    with pytest.raises(RunFileError) as caught:
        parse(SMALLEST.replace("ecg-mitbih", "A" * 100_000))
    assert len(str(caught.value)) < 1000


def test_an_alias_and_a_merge_are_fine():
    run = parse(
        SMALLEST + "fit: &f {steps: 7}\nmeta: {<<: {inner_steps: 3, inner_rate: 0.5}, inner_steps: 4}\ntrain: *f\n"
    )
    assert (run.fit.steps, run.train.steps, run.meta.inner_steps, run.meta.inner_rate) == (7, 7, 4, 0.5)


@pytest.mark.parametrize(
    ("override", "name"),
    [("kubernetes.environment.HTTPS_PROXY=x", "HTTPS_PROXY"), ('kubernetes.environment."A_B"=x', "A_B")],
)
def test_an_override_reaches_names_with_capitals(override, name):
    assert parse(SMALLEST, [override]).kubernetes.environment == {name: "x"}


def test_an_override_reaches_quoted_names_with_dots():
    run = parse(SMALLEST, ['kubernetes.gpu.labels."example.com/Team"=imaging'])
    assert run.kubernetes.gpu.labels == {"example.com/Team": "imaging"}


@pytest.mark.parametrize("override", ["train.steps", "=3", "train..steps=3", 'kubernetes.labels."a.b', "1a=3"])
def test_a_malformed_override_is_refused(override):
    with pytest.raises(RunFileError, match=r"section\.key=value"):
        parse(SMALLEST, [override])


def test_a_relative_storage_means_the_folder_that_the_file_was_loaded_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = parse(SMALLEST, ["storage=here/store"])
    monkeypatch.chdir("/")
    assert run.storage == str(tmp_path / "here" / "store")
    assert parse(dump(run)) == run


def test_a_run_file_may_lie_in_the_environment(monkeypatch):
    monkeypatch.setenv("MEDFUNCTA_RUN_FILE", SMALLEST)
    assert load("env:MEDFUNCTA_RUN_FILE", ["train.steps=7"]) == parse(SMALLEST, ["train.steps=7"])
    monkeypatch.setenv("MEDFUNCTA_RUN_FILE", "name: [")
    with pytest.raises(RunFileError, match="env:MEDFUNCTA_RUN_FILE"):
        load("env:MEDFUNCTA_RUN_FILE")
    with pytest.raises(RunFileError, match="'NOT_SET' holds no run file"):
        load("env:NOT_SET")


def test_a_missing_or_huge_file_is_refused(tmp_path):
    with pytest.raises(RunFileError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (2 << 20))
    with pytest.raises(RunFileError, match="1 MiB"):
        load(big)


def test_the_digest_covers_exactly_the_named_sections():
    one, other = parse(SMALLEST), parse(SMALLEST, ["cluster.workers=2"])
    assert one.digest() != other.digest()
    assert one.digest("data", "train") == other.digest("data", "train")


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
)
def test_difference_is_empty_only_for_equal_mappings(one, other):
    assert (difference(one, other) == []) == (one == other)


def test_difference_names_old_and_new():
    assert difference({"train": {"steps": 1}}, {"train": {"steps": 2}}) == ["train.steps: 1 -> 2"]


def test_a_run_file_is_frozen():
    run = parse(SMALLEST)
    with pytest.raises(Exception, match="frozen"):
        run.name = "other"  # type: ignore[misc]
    assert isinstance(run, RunFile)


def test_a_bare_off_is_a_word_where_words_are_meant() -> None:
    text = "name: r\nstorage: /tmp/x\ndata: {source: a/*.png, shape: [8, 8]}\n"
    assert parse(text + "telemetry: {wandb: off}\nmeta: {compile: on}\n", where="x").telemetry.wandb == "off"


@pytest.mark.parametrize(
    ("later", "named"),
    [
        ("fit: {keep: minus}", "fit.keep"),
        ("train: {batch: 4, no_such_key: 1}\ncluster: {workers: 4}", "train.no_such_key"),
        ("train: {batch: none}", "train.batch"),
        ("field: {latent: 64}\nfit: {keep: 65}", "fit.keep"),
        ("evaluate: 3", "evaluate"),
    ],
)
def test_faults_of_later_stages_do_not_stop_packing(later: str, named: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEXT", SMALLEST + later)
    with pytest.raises(RunFileError):
        load("env:TEXT")
    run, faults = load_to_pack("env:TEXT", ["data.channels=2"])
    assert named in faults
    assert (run.data, run.dataset) == (parse(SMALLEST, ["data.channels=2"]).data, "ecg-mitbih")


@pytest.mark.parametrize("wrong", ["data: {shape: [0]}", "nonsense: 1", "fit: {keep: minus}\ncluster: 1", "preset: 9d"])
def test_faults_of_what_packing_needs_do(wrong: str, monkeypatch: pytest.MonkeyPatch):
    start = SMALLEST.partition("data:")[0] if wrong.startswith("data") else SMALLEST
    monkeypatch.setenv("TEXT", start + wrong)
    with pytest.raises(RunFileError) as caught:
        load_to_pack("env:TEXT")
    assert wrong.split("\n")[-1].partition(":")[0] in str(caught.value)


def test_a_valid_run_file_is_the_same_for_packing():
    assert load_to_pack("jobs/ecg.yaml") == (load("jobs/ecg.yaml"), "")


@pytest.mark.parametrize("preset", ["", "preset: 3d\n"])
def test_a_shape_that_defaults_cannot_fit_can_be_packed(tmp_path, preset):
    path = tmp_path / "run.yaml"
    path.write_text(f"name: a\nstorage: store\n{preset}data: {{source: archive, shape: [64, 64, 40]}}\n")
    with pytest.raises(RunFileError, match="GiB"):
        load(path)
    run, faults = load_to_pack(path)
    assert run.data.shape == [64, 64, 40]
    assert "GiB" in faults
