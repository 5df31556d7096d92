"""Samples say in every format that they are no scan, depend on seed and number alone, and are refused if copies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.evaluation.decode import Decoded, save
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.prior.sample_files import MARK, SampleRequest, _suffix, write_samples
from medfuncta_dist.scans.scan import Window
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.forget.archives import write_run_file
from tests.unit.latents.fitted import network, publish, ready
from tests.unit.prior.priors import committed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    found = ready(tmp_path_factory.mktemp("run"), kind="basis")
    write_run_file(found)
    fit(found, map_here)
    committed(found)
    return found


def sampled(run: RunFile, out: Path, count: int = 3, **asked: object) -> dict[str, object]:
    return write_samples(run, SampleRequest(count, out, **asked))  # type: ignore[arg-type]


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def test_the_list_and_the_keys_say_what_they_are(run: RunFile, tmp_path: Path) -> None:
    found = sampled(run, tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "samples.json").read_bytes())
    assert listed["synthetic"] is True
    assert listed["mark"] == MARK
    assert found["samples"] == listed["samples"]
    for number, entry in enumerate(listed["samples"]):
        assert re.fullmatch(rf"synthetic-[0-9a-f]{{8}}-0-{number:06d}", entry["key"])
        assert not re.fullmatch(r"[0-9a-f]{8,64}", entry["key"])
        assert (tmp_path / "out" / entry["file"]).is_file()


def test_the_same_seed_gives_the_same_scans_however_many_are_drawn(run: RunFile, tmp_path: Path) -> None:
    for name, count, seed in (("few", 2, 7), ("many", 70, 7), ("other", 2, 8)):
        sampled(run, tmp_path / name, count, seed=seed)
    few, many, other = (pictures(tmp_path / name) for name in ("few", "many", "other"))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    assert not np.array_equal(few[0], other[0])
    assert not np.array_equal(few[0], few[1])


def test_any_resolution_and_label(run: RunFile, tmp_path: Path) -> None:
    found = sampled(run, tmp_path / "out", shape=(20, 31), label=1)
    assert [picture.shape for picture in pictures(tmp_path / "out")] == [(20, 31)] * 3
    assert [entry["label"] for entry in found["samples"]] == [1, 1, 1]  # type: ignore[attr-defined]
    with pytest.raises(RunFileError, match="no training scan has the label 77"):
        sampled(run, tmp_path / "label", label=77)
    with pytest.raises(RunFileError, match="is no shape"):
        sampled(run, tmp_path / "shape", shape=(20,))
    with pytest.raises(RunFileError, match="not written as csv"):
        sampled(run, tmp_path / "format", format="csv")
    with pytest.raises(RunFileError, match="not empty"):
        sampled(run, tmp_path / "out")


def test_labels_are_drawn_as_often_as_training_scans_have_them(run: RunFile, tmp_path: Path) -> None:
    found = sampled(run, tmp_path / "out", 200)
    prior = json.loads(next((Path(run.storage) / f"runs/{run.name}/prior").glob("*/prior.json")).read_bytes())
    shares = dict(zip(prior["classes"]["labels"], prior["classes"]["counts"], strict=True))
    drawn = [entry["label"] for entry in found["samples"]]  # type: ignore[attr-defined]
    for label, count in shares.items():
        assert drawn.count(label) / 200 == pytest.approx(count / sum(shares.values()), abs=0.12)


@pytest.mark.parametrize(("channels", "expected"), [(1, "png"), (2, "nii.gz"), (3, "png"), (4, "nii.gz")])
def test_pictures_are_the_default_of_what_pictures_can_show(channels: int, expected: str) -> None:
    assert _suffix(SampleRequest(1, Path("out")), 2, channels) == expected
    if expected != "png":
        with pytest.raises(RunFileError, match=f"{channels} channels are not written as png"):
            _suffix(SampleRequest(1, Path("out"), format="png"), 2, channels)


@pytest.mark.parametrize("suffix", ["nii.gz", "npy", "png"])
def test_every_format_is_marked(run: RunFile, tmp_path: Path, suffix: str) -> None:
    found = sampled(run, tmp_path / "out", 1, format=suffix)
    [entry] = found["samples"]  # type: ignore[misc]
    path = tmp_path / "out" / entry["file"]
    if suffix == "nii.gz":
        header = nib.load(path).header
        assert header["descrip"].item().decode().startswith(MARK)
        assert header["intent_name"].item() == b"SYNTHETIC"
    elif suffix == "png":
        assert Image.open(path).text["Description"].startswith(MARK)
    else:
        beside = json.loads(path.with_name(path.name + ".json").read_bytes())
        assert beside["synthetic"] is True
        assert beside["key"] == entry["key"]


def test_a_signal_is_marked_and_a_scan_is_not(tmp_path: Path) -> None:
    def signal(synthetic: str) -> str:
        decoded = Decoded(
            "k", np.zeros((1, 4), np.float32), Window(0.0, 1.0), (1.0,), None, 30.0, False, False, synthetic
        )
        save(decoded, tmp_path / "one.csv")
        save(decoded, tmp_path / "one.npy")
        return (tmp_path / "one.csv").read_text()

    assert signal("").startswith("0,0")
    assert not (tmp_path / "one.npy.json").exists()
    marked = signal(MARK)
    assert marked.startswith(f"# {MARK}")
    assert np.loadtxt(tmp_path / "one.csv", delimiter=",").shape == (4,)
    assert (tmp_path / "one.npy.json").exists()


def test_a_prior_that_copies_is_refused_until_the_limit_is_raised(run: RunFile, tmp_path: Path) -> None:
    committed(run, copied=0.4)
    with pytest.raises(RunFileError, match=r"40\.0% of 64 samples") as refused:
        sampled(run, tmp_path / "out")
    assert "prior.most_copied" in refused.value.where
    assert not (tmp_path / "out").exists()
    allowed = run.prior.model_copy(update={"most_copied": 0.5})
    sampled(run.model_copy(update={"prior": allowed}), tmp_path / "out")
    committed(run)


def test_a_prior_that_few_scans_judge_is_refused_until_everything_is_allowed(run: RunFile, tmp_path: Path) -> None:
    committed(run, held_out=29)
    with pytest.raises(RunFileError, match="only 19 held-out scans judge"):
        sampled(run, tmp_path / "out")
    allowed = run.prior.model_copy(update={"most_copied": 1.0})
    sampled(run.model_copy(update={"prior": allowed}), tmp_path / "out")
    committed(run)


def test_without_a_prior_of_the_present_network_nothing_is_drawn(tmp_path: Path) -> None:
    run = ready(tmp_path, kind="basis")
    write_run_file(run)
    fit(run, map_here)
    with pytest.raises(StageOrderError, match="no prior yet"):
        sampled(run, tmp_path / "out")
    committed(run)
    publish(run, network(run, layers=4))
    assert ObjectStore(run.storage).list(f"runs/{run.name}/prior")
    with pytest.raises(StageOrderError, match="another network"):
        sampled(run, tmp_path / "out")
