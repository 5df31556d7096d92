"""A basis field's latents as they are stored: from the fit stage to all that reads a latent table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.evaluation.decode import decode, decode_to_file
from medfuncta_dist.evaluation.evaluation_driver import evaluate
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fitting import latent_ledger
from medfuncta_dist.fitting.fit_driver import fit, latent_folder, locate_table
from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.latents import table_format
from medfuncta_dist.latents.exact_fit import ExactFitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.latent_types import StorageType
from medfuncta_dist.latents.storage_loss import Spectrum, coarsest, predicted_loss
from medfuncta_dist.latents.table_units import write_units
from medfuncta_dist.network.committed_network import published_network
from medfuncta_dist.network.core_settings import spectrum_of
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.probe.probe_driver import probe_run
from medfuncta_dist.storage.object_store import ObjectInfo, ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.latents.fitted import ready
from tests.unit.latents.principal import COUNTS, LATENT, basis_run, described, principal_of, targets

SCANS = sum(COUNTS.values())


def with_fit(run: RunFile, **changes: Any) -> RunFile:
    return RunFile.model_validate(run.model_dump() | {"fit": run.fit.model_dump() | changes})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """A run whose latents are stored whole, in float32; the others are of the same network."""
    run = basis_run(tmp_path_factory.mktemp("run"))
    assert fit(run, map_here).counts.fitted == SCANS
    return run


def fitted(plain: RunFile, **changes: Any) -> RunFile:
    run = with_fit(plain, **changes)
    assert fit(run, map_here).counts.fitted == SCANS
    return run


def spectrum(run: RunFile) -> Spectrum:
    store = ObjectStore(run.storage)
    found = spectrum_of(load_network(store, published_network(store, run.name)))
    assert found is not None
    return found


def parts_of(run: RunFile) -> list[ObjectInfo]:
    store = ObjectStore(run.storage)
    return list(store.list(f"{locate_table(run, store).folder}/parts"))


def mean_psnr(run: RunFile, split: str) -> float:
    return float(LatentTable.open(run, [split]).psnr.mean())


def loss_together(plain: RunFile, run: RunFile) -> float:
    """Of the mean squared error of all training scans, in dB: what a prediction is of."""
    before, after = (np.mean(10 ** (-LatentTable.open(r, ["train"]).psnr / 10)) for r in (plain, run))
    return float(10 * np.log10(after / before))


def first_key(run: RunFile) -> str:
    return LatentTable.open(run, ["test"]).keys[0]


@pytest.mark.parametrize("storage_type", ["float16", "int8"])
def test_the_loss_of_storing_is_small_and_as_predicted(plain: RunFile, storage_type: StorageType) -> None:
    run = fitted(plain, storage_type=storage_type)
    predicted = predicted_loss(spectrum(run), storage_type)
    assert predicted is not None
    for split in ("train", "test"):
        loss = mean_psnr(plain, split) - mean_psnr(run, split)
        assert abs(loss) <= 0.1
        assert loss == pytest.approx(predicted, abs=0.02)


def test_a_table_of_int8_latents_decodes_to_the_psnr_that_it_tells(plain: RunFile) -> None:
    run = fitted(plain, storage_type="int8")
    table = LatentTable.open(run)
    assert table.rows.schema.metadata[b"format_version"] == b"2"
    assert table_format.storage_of(table.rows) == table_format.Storage("int8", LATENT)
    whole = LatentTable.open(plain)
    assert whole.rows.schema.metadata[b"format_version"] == b"1"
    assert np.abs(table.latents - whole.latents).max() < 0.02 * np.abs(whole.latents).max()
    summary = evaluate(run, map_here)
    assert summary["largest_psnr_difference"] < 0.01
    assert summary["storage"]["type"] == "int8"
    verified = verify_target(run_path(run), [], False)
    assert verified["runs"][run.name]["latents"]["fitted"] == SCANS


def run_path(run: RunFile) -> str:
    path = Path(run.storage).parent / "run.yaml"
    path.write_text(run.model_dump_json())
    return str(path)


def test_the_first_numbers_are_a_latent(plain: RunFile, tmp_path: Path) -> None:
    run = fitted(plain, keep=5, storage_type="int8")
    table, whole = LatentTable.open(run), LatentTable.open(plain)
    assert table.latents.shape == (SCANS, 5)
    assert np.abs(table.latents - whole.latents[:, :5]).max() < 0.02 * np.abs(whole.latents).max()
    decoded = table.network.decode(torch.from_numpy(table.latents), (12, 12))
    assert decoded.shape == (SCANS, 1, 12, 12)
    summary = evaluate(run, map_here)
    assert summary["largest_psnr_difference"] < 0.01
    assert summary["baselines"]["pca"]["components"] == 5
    predicted = predicted_loss(spectrum(run), "int8", 5)
    sizes = {"bytes_per_scan": sum(part.size for part in parts_of(run)) / SCANS, "shared_bytes": 0}
    assert summary["storage"] == {"type": "int8", "numbers": 5, "of": LATENT, "predicted_loss": predicted, **sizes}
    assert predicted == pytest.approx(loss_together(plain, run), rel=0.05)
    assert probe_run(run)["scans"] == COUNTS
    table_format.export(table.rows, tmp_path / "table.parquet")
    again = table_format.parse_table((tmp_path / "table.parquet").read_bytes(), "table.parquet")
    assert np.array_equal(table_format.latents_of(again), table.latents)


def test_a_scan_decodes_from_its_first_numbers(plain: RunFile, tmp_path: Path) -> None:
    key = first_key(plain)
    latent = torch.from_numpy(LatentTable.open(plain, ["test"]).latents[:1])
    network = LatentTable.open(plain).network
    for keep in (1, 5, LATENT):
        short = decode(plain, key, keep=keep)
        expected = network.decode(latent * (torch.arange(LATENT) < keep), (12, 12)).clamp(0, 1)[0].numpy()
        assert np.allclose(short.values, expected, atol=1e-6)
    assert np.array_equal(decode(plain, key, keep=LATENT).values, decode(plain, key).values)
    said = decode_to_file(plain, key, tmp_path / "scan.png", keep=5)["said"][0]
    assert "from its first 5 numbers; its whole latent" in said


def test_numbers_that_are_not_there_cannot_be_kept(plain: RunFile, tmp_path: Path) -> None:
    for run, most in ((plain, LATENT), (fitted(plain, keep=5), 5)):
        for keep in (0, -1, most + 1):
            with pytest.raises(RunFileError, match="cannot be kept") as found:
                decode(run, first_key(plain), keep=keep)
            assert found.value.where == "--keep"
    siren = ready(tmp_path)
    fit(siren, map_here)
    with pytest.raises(RunFileError, match="only be decoded whole"):
        decode(siren, first_key(siren), keep=3)


@pytest.mark.parametrize("promise", [1e-6, 0.1, 3.0])
def test_the_fit_stage_chooses_storage_by_a_promise(plain: RunFile, promise: float) -> None:
    run = fitted(plain, storage_loss=promise)
    chosen = coarsest(promise, spectrum(run))
    stored = table_format.storage_of(LatentTable.open(run).rows)
    assert stored == table_format.Storage(chosen.storage_type, chosen.keep or LATENT)
    assert stored.storage_type == ("float32" if promise < 0.01 else "int8")
    told = fit(run, map_here)
    assert (told.storage_type, told.numbers, told.fitted_now) == (stored.storage_type, stored.numbers, 0)
    assert (stored.numbers < LATENT) == (promise > 1)
    assert mean_psnr(plain, "train") - mean_psnr(run, "train") <= promise
    assert loss_together(plain, run) <= promise
    assert loss_together(plain, run) == pytest.approx(chosen.loss, rel=0.05, abs=0.01)


def test_the_folder_of_a_promise_depends_on_the_promise_only(plain: RunFile) -> None:
    promised, chosen = with_fit(plain, storage_loss=0.5), with_fit(plain, storage_type="int8", keep=5)
    folders = {latent_folder(run, "0" * 64) for run in (plain, promised, with_fit(plain, storage_loss=0.6), chosen)}
    assert len(folders) == 4
    assert locate_table(promised, ObjectStore(plain.storage)).folder.startswith(f"runs/{plain.name}/latents/")


def test_a_promise_is_given_instead_of_a_storage_type(plain: RunFile, tmp_path: Path) -> None:
    for other in ({"keep": 3}, {"storage_type": "int8"}):
        with pytest.raises(ValidationError, match="storage_loss chooses"):
            with_fit(plain, storage_loss=0.1, **other)
    with pytest.raises(ValidationError, match=r"fit\.storage_loss = 0.1 would do nothing with field\.kind siren"):
        ready(tmp_path, fit={"storage_loss": 0.1})


def test_a_network_that_tells_no_variances_promises_nothing(plain: RunFile, tmp_path: Path) -> None:
    store = ObjectStore(plain.storage)
    network = load_network(store, published_network(store, plain.name))
    assert spectrum_of(replace(network, extras={})) is None
    assert spectrum_of(replace(network, inner={})) is None
    assert spectrum_of(replace(network, inner={"residual": 0.1})).scans == 0


def test_parts_of_other_units_are_not_one_table(plain: RunFile, tmp_path: Path) -> None:
    run = fitted(plain, storage_type="int8", ridge=2e-6)  # a table of its own
    store = ObjectStore(run.storage)
    folder = locate_table(run, store).folder
    commits = latent_ledger.read_commits(store, folder)
    parts = [c.part for c in commits.values() if c.part]
    tables = table_format.read_parts(store, folder, parts[:2])
    metadata = dict(tables[0].schema.metadata)
    other = write_units(np.ones(LATENT, np.float32))
    tables[0] = tables[0].replace_schema_metadata(metadata | {k.encode(): v.encode() for k, v in other.items()})
    with pytest.raises(IntegrityError, match="different ways"):
        table_format.sort_by_key(tables)


def test_four_scans_per_number_tell_what_new_scans_lose(tmp_path: Path) -> None:
    run = described(tmp_path)
    trained = principal_of(run, targets(4 * LATENT, seed=5))
    new, points = targets(300, seed=6), grid(run.data.shape)
    found = Spectrum(trained.extras["latent.variances"], trained.facts["residual"], trained.facts["scans"])

    def error(keep: int | None) -> float:
        fitter = ExactFitter(trained.spec, trained.params, points, FitSettings(keep=keep), found.variances)
        return float((10 ** (-fitter.fit(new).psnr / 10)).mean())

    for keep in (3, 6, 11):
        predicted = predicted_loss(found, "float32", keep)
        assert predicted is not None
        assert 10 * np.log10(error(keep) / error(None)) == pytest.approx(predicted, rel=0.2)
