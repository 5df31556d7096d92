"""The public names: few, lazy, documented, and their examples run on a real small run."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import medfuncta_dist
from medfuncta_dist.config.load import dump
from medfuncta_dist.fitting.fit_driver import fit
from medfuncta_dist.stages import evaluate_stage, fit_stage, pack_stage
from medfuncta_dist.task_map import map_here
from tests.kinds import KINDS
from tests.unit.docs.pages import blocks
from tests.unit.latents.fitted import LATENT, ready, record_training

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=KINDS)
def fitted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``my-xrays.yaml``, a run that is packed, trained and fitted; stages map their tasks here."""
    sizes = {"layers": 3, "hidden": 16, "latent": LATENT, "omega_first": 5.0, "omega_last": 10.0}
    sections = {"train": {"batch": 8}, "kubernetes": {"claims": {"data": str(tmp_path)}}}
    run = ready(tmp_path, request.param, field=sizes, **sections)
    fit(run, map_here)
    (tmp_path / "my-xrays.yaml").write_text(dump(run))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pack_stage, "cpu_fan_out", lambda run: map_here)
    for stage in (fit_stage, evaluate_stage):
        monkeypatch.setattr(stage, "compute_fan_out", lambda run: map_here)
    return tmp_path


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, medfuncta_dist; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "numpy", "pydantic", "yaml", "pyarrow", "typer"} & set(loaded)


def test_there_are_at_most_ten_names_and_each_is_documented() -> None:
    assert len(medfuncta_dist.__all__) <= 10
    for name in medfuncta_dist.__all__:
        assert inspect.getdoc(getattr(medfuncta_dist, name)), name


def test_a_public_name_is_never_a_package_of_ours_and_stays_what_it_is_when_all_is_imported() -> None:
    rooms = {path.name for path in (ROOT / "medfuncta_dist").iterdir() if path.is_dir()}
    assert not rooms & set(medfuncta_dist.__all__)
    import_module("medfuncta_dist.submit.submit_jobs")
    assert callable(medfuncta_dist.submit_stages)


def test_a_name_that_is_not_there_says_what_is() -> None:
    with pytest.raises(AttributeError, match="public are LatentTable, RunFile"):
        medfuncta_dist.no_such_thing  # noqa: B018


def examples() -> list[Any]:
    parser = doctest.DocTestParser()
    found = []
    for name in medfuncta_dist.__all__:
        # Training starts Ray Train and has integration tests of its own.
        test = parser.get_doctest(inspect.getdoc(getattr(medfuncta_dist, name)) or "", {}, name, None, 0)
        found += [pytest.param(test, id=name)] if test.examples and name != "train" else []
    return found


@pytest.mark.parametrize("example", examples())
def test_the_examples_of_the_docstrings_run(example: doctest.DocTest, fitted: Path) -> None:
    table = medfuncta_dist.LatentTable.open("my-xrays.yaml")
    example.globs |= {name: getattr(medfuncta_dist, name) for name in medfuncta_dist.__all__}
    example.globs |= {"torch": torch, "key": table.keys[0]}
    failed = doctest.DocTestRunner(verbose=False).run(example)
    assert failed.failed == 0


def test_the_readmes_stages_run_one_after_the_other(fitted: Path) -> None:
    """Training finds its network there; from nothing, it is trained in the integration tests."""
    run = medfuncta_dist.load_run_file("my-xrays.yaml")
    record_training(run, {})
    [block] = [b for b in blocks(ROOT / "README.md") if b.remark and b.remark[1] == "tests/unit/test_api.py"]
    names: dict[str, Any] = {}
    exec(compile("\n" * block.line + block.text, block.page, "exec"), names)
    assert names["figures"]["report"].endswith("report.html")


def test_the_latent_table_is_what_was_fitted(fitted: Path) -> None:
    table = medfuncta_dist.LatentTable.open("my-xrays.yaml", splits=["test"])
    assert len(table) == len(table.keys) == 9
    assert set(table.splits) == {"test"}
    assert table.latents.shape == (9, LATENT)
    assert table.latents.dtype == "float32"
    assert len(table.labels) == len(table.psnr) == len(table.below_min) == 9


def test_decode_is_what_the_network_makes_of_the_latent(fitted: Path) -> None:
    table = medfuncta_dist.LatentTable.open("my-xrays.yaml")
    decoded = medfuncta_dist.decode("my-xrays.yaml", table.keys[3], shape=(20, 24))
    values = table.network.decode(torch.from_numpy(table.latents[3:4]), (20, 24)).clamp(0, 1)[0]
    assert decoded.values.shape == (1, 20, 24)
    assert torch.equal(torch.from_numpy(decoded.values), values)


def test_stages_keep_the_lease_and_the_summary_of_the_commands(fitted: Path) -> None:
    figures = medfuncta_dist.fit("my-xrays.yaml")
    assert figures["counts"]["fitted"] == 31
    assert len(list(fitted.rglob("catalogue/*.json"))) == 1  # written when all is fitted
    summary = yaml.safe_load((fitted / "storage" / "runs" / "small" / "summary.json").read_text())
    assert summary["fit"]["counts"] == figures["counts"]


def test_a_run_file_object_takes_no_overrides(fitted: Path) -> None:
    run = medfuncta_dist.load_run_file("my-xrays.yaml", ["train.steps=3"])
    assert run.train.steps == 3
    assert medfuncta_dist.load_run_file(run) is run
    with pytest.raises(TypeError, match="give the path"):
        medfuncta_dist.load_run_file(run, ["train.steps=3"])
