from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from medfuncta_dist.config.load import dump, parse, parse_kept
from medfuncta_dist.config.presets import ALIASES, PAPER, PRESETS, SIRENS_OF, PresetName
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.fitting.fit_driver import fit_digest
from medfuncta_dist.run.frozen_run_file import begun_with, freeze, way_out
from medfuncta_dist.shards.data_contract import contract_of
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE

FROZEN = Path(__file__).parent / "frozen"
OLD = (FROZEN / "medfuncta-2d.yaml").read_text()
"""The run.yaml that the version before ``paper-2d`` froze of ``BEGUN``, and its digests there."""
BEGUN = """
name: old-run
storage: s3://bucket/medfuncta
preset: medfuncta-2d
data: {source: "s3://a/*.nii.gz", shape: [64, 64], slices: {axis: 2}, slabs: {}}
train: {steps: 1000}
"""
DIGEST = "f011ae8a17ebfbdd1c97b38f0f9169415b502ec012dfdd28bc5d11dc13ec0f6d"
FIXED_DIGEST = "5adc6ad303573ba1cd60a9b6c1199b62f8ff46bfbc8ba2951b8d59791196004c"
CONTRACT_DIGEST = "b1768bb8ff22dee96cad22317dec505557c944c625b966ebce39fc6d456bc18f"
SIRENS = {
    "1d": "7bcf275a39ab4a2b353c1819b164dca88f188c4de5f5080f95059e620e2555b1",
    "2d": "a93219c1713cdd510df927e119479c6874b58c59d778fc04870f496434eb51e5",
    "3d": "0e0c3a64771b1acbc0abc134ca8a5aeba4122e83de2df99e6134d5dd7189d703",
}
"""Presets that were SIRENs before there was another kind of field, and the digest of the run file that each has in
``frozen/``, in the version that froze it. Only these names mean something else today."""
SIREN_RESULTS = {
    "1d": "6ab83b0ec0f3b436d988c746355759c74a77d10d3949fd90f4336ae891239250",
    "2d": "b98022efa93f01a99dd284ae60b6f9ec1f0d49e9b945590202a7f86ca7c49584",
    "3d": "048718ce85c5d9a13cf5bd8275e819216a4024dcca967eb4280eed98399753f6",
}
SIREN_FITS = {
    "1d": "e5d4cd5c3b1dc77755ad798c2aa3fa8245cac80a6fc64f7f09398e6c3a1d7a5d",
    "2d": "9a3d6ab398c276c0425d9bb2dd69567f741ec09181a43caf5726b75332fb293f",
    "3d": "8397f8c6a956b967534aabf4cd67ffbcfd1ef888c3aa2d9b49151966ac77017f",
}


def frozen_siren(axes: str) -> str:
    return (FROZEN / f"{axes}.yaml").read_text()


def begun(preset: str, axes: int) -> RunFile:
    shape = ([187], [64] * 2, [32] * 3)[axes - 1]
    return parse(f"name: r\nstorage: s3://bucket/m\npreset: {preset}\ndata: {{source: x, shape: {shape}}}\n")


def begun_as(preset: str) -> RunFile:
    data = "{source: 's3://a/*.npz', shape: [64, 64]}"
    return parse(f"name: old-run\nstorage: s3://bucket/medfuncta\npreset: {preset}\ndata: {data}\n")


def known(now: Any, then: Any) -> Any:
    """What is said now of the keys that there were then."""
    return {key: known(now[key], value) for key, value in then.items()} if isinstance(then, dict) else now


@pytest.mark.parametrize("run", [parse_kept(OLD), parse(BEGUN)], ids=["frozen", "begun anew"])
def test_a_run_of_an_earlier_preset_is_what_it_was(run: RunFile) -> None:
    then = yaml.safe_load(OLD)
    # A later key is no part of the old digest; one that may be left open now counts as its earlier default.
    now = known(run.digested(lambda _: True), then)
    assert run.preset == "medfuncta-2d"
    assert digest_json(now) == DIGEST
    assert digest_json({section: now[section] for section in ("data", "field", "meta", "train", "fit")}) == FIXED_DIGEST
    assert digest_json(contract_of(run.data)) == CONTRACT_DIGEST


def test_a_run_of_an_earlier_preset_resumes(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    store.write("runs/old-run/run.yaml", OLD.encode())
    resumed, first = freeze(parse(BEGUN), store, fence=ALONE)
    assert not first
    assert resumed.preset == "medfuncta-2d"
    with pytest.raises(RunChangedError, match="residual"):
        freeze(parse(BEGUN.replace("medfuncta-2d", "2d")), store, fence=ALONE)


def test_a_run_that_began_when_its_preset_was_a_siren_is_told_how_to_go_on_and_does(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    store.write("runs/old-run/run.yaml", frozen_siren("2d").encode())
    with pytest.raises(RunChangedError, match=r"field\.kind: 'siren' -> 'basis'") as caught:
        freeze(begun_as("2d"), store, fence=ALONE)
    assert "write preset: siren-2d" in caught.value.do
    resumed, first = freeze(begun_as("siren-2d"), store, fence=ALONE)
    assert (first, resumed.preset, resumed.field.kind) == (False, "siren-2d", "siren")
    with pytest.raises(RunChangedError) as caught:  # by the run file of before, once more
        freeze(begun_as("2d"), store, fence=ALONE)
    assert "write preset: siren-2d" in caught.value.do


def test_only_what_the_preset_changed_is_undone_by_another_preset() -> None:
    siren, basis = parse_kept(frozen_siren("2d")), begun_as("2d")
    assert "siren-2d" in way_out(siren, basis)
    changed = begun_as("siren-2d").model_copy(update={"train": siren.train.model_copy(update={"steps": 1})})
    for frozen, run in (
        (siren.model_copy(update={"preset": None}), basis),
        (siren, changed),
        (begun_as("paper-2d"), basis),
        (basis, basis.model_copy(update={"train": changed.train})),
        (basis, begun_as("siren-2d")),
    ):
        assert way_out(frozen, run).startswith("undo these changes")


def test_each_name_that_was_a_siren_has_a_preset_for_it() -> None:
    for ours, siren in SIRENS_OF.items():
        assert (begun(ours, int(ours[0])).field.kind, begun(siren, int(ours[0])).field.kind) == ("basis", "siren")


@pytest.mark.parametrize("read", [parse_kept, parse], ids=["kept", "carried by a job"])
@pytest.mark.parametrize("axes", SIRENS)
def test_a_resolved_run_file_keeps_what_its_preset_meant(axes: str, read: Callable[[str], RunFile]) -> None:
    run = read(frozen_siren(axes))
    assert (run.field.kind, run.preset, PRESETS[axes]["field"]["kind"]) == ("siren", axes, "basis")
    assert (run.digest(), run.results_digest, fit_digest(run)) == (SIRENS[axes], SIREN_RESULTS[axes], SIREN_FITS[axes])
    assert known(run.model_dump(mode="json"), yaml.safe_load(frozen_siren(axes))) == yaml.safe_load(frozen_siren(axes))
    assert read(dump(run)) == run


@pytest.mark.parametrize("axes", SIRENS)
def test_a_run_of_a_preset_that_was_a_siren_goes_on_under_its_later_name(axes: str, tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    store.write("runs/old-run/run.yaml", frozen_siren(axes).encode())
    data = yaml.safe_dump({"data": yaml.safe_load(frozen_siren(axes))["data"]})
    text = f"name: old-run\nstorage: s3://bucket/medfuncta\npreset: PRESET\n{data}"
    with pytest.raises(RunChangedError, match=r"field\.kind: 'siren' -> 'basis'"):
        freeze(parse(text.replace("PRESET", axes)), store, fence=ALONE)
    resumed, first = freeze(parse(text.replace("PRESET", f"siren-{axes}")), store, fence=ALONE)
    assert (resumed.field.kind, first) == ("siren", False)
    assert begun_with(resumed, store) == resumed


def test_every_name_has_a_preset_and_earlier_names_are_the_papers() -> None:
    assert set(PRESETS) == set(get_args(PresetName))
    assert dict(ALIASES) == {f"medfuncta-{n}d": f"paper-{n}d" for n in (1, 2, 3)}
    assert all(PRESETS[old] == PAPER[new] for old, new in ALIASES.items())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_public_code_is_as_published(axes: int) -> None:
    run, increment = begun(f"public-code-{axes}d", axes), 10 if axes == 1 else 5
    assert run.field.omegas == [10 + increment * k for k in range(run.field.layers - 1)]
    assert (run.field.residual, run.field.modulate_first) == (True, True)
    assert (run.train.weight_decay, run.train.schedule, run.train.clip) == (0.01, "constant", 1.0)
    assert (run.inner_rate, run.train.rate, run.train.rate_by_omega) == (1e-2, 3e-6, False)
    assert (run.fit.method, run.fit.steps, run.fit.rescale) == ("sgd", 20, None if axes == 1 else 0.25)
    paper = begun(f"paper-{axes}d", axes)
    sizes = ("layers", "hidden", "latent")
    assert [getattr(run.field, n) for n in sizes] == [getattr(paper.field, n) for n in sizes]
    assert (run.train.batch, run.meta.selection_ratio) == (paper.train.batch, paper.meta.selection_ratio)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_ours_has_residual_layers_and_rates_by_omega(axes: int) -> None:
    run = begun(f"{axes}d", axes)
    assert run.field.residual
    assert run.train.rate_by_omega
    assert run.inner_rate <= 2000 / run.field.omega_last**2  # near that, training explodes
    assert run.fit.method != "sgd"
