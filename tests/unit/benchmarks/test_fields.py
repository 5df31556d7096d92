"""The benchmark of field kinds: its methods are what they say, its search and its page tell what was found."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import field_curves
from benchmarks.common import Kept
from benchmarks.field_methods import (
    between,
    changed,
    cosines,
    cropped,
    decibel,
    draws,
    odd,
    pca,
    scan_stream,
    score,
    trained,
    upsampled,
    with_fit,
)
from benchmarks.field_sets import SETS, SHORT, Case, Choice, augmentation, basis_sections, made, run_of
from benchmarks.fields import EACH, claims_of, lines_of, row, searched, told
from benchmarks.preset_scans import made_scans
from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.evaluation.pca import pca_mse
from medfuncta_dist.fields.coordinates import grid
from tests.unit.benchmarks.test_benchmarks import result_of


def case(name: str = "quickstart") -> Case:
    """A data set as a short run has it."""
    return Case(name, *made(name, SETS[name]))


def test_fields() -> None:
    found = result_of("fields")
    assert found["short"]
    for name in SHORT:
        end = told(found["results"], name)
        for method in EACH:
            assert 0 < end[method]["test"] <= 100
            assert end[method]["probe"][0]["classifier"] == "majority class"
            (*_, last) = end[method]["over_numbers"]
            assert last == pytest.approx([8, end[method]["validation"]], abs=1e-3)
        assert end["mean scan"]["test"] < end["pca"]["test"]
        assert len(end["half grid"]["basis"]) == len(end["half grid"]["dct, cosines"]) == 2
    assert {claim["what"].partition(",")[0] for claim in found["claims"]} == set(SHORT)


def test_every_set_trains_a_basis_field_and_a_siren_of_equal_numbers() -> None:
    for name, whole in SETS.items():
        shape = {"ecg": [64], "cubes": [8, 8, 8]}.get(name, [24, 24])
        here = Case(name, whole, made_scans(2))
        basis = run_of(here, basis_sections(here, whole.start, whole.latent), 3, shape)
        siren = run_of(here, whole.siren, 3, shape)
        assert (basis.field.kind, siren.field.kind) == ("basis", "siren")
        assert basis.field.latent == siren.field.latent == whole.latent
        assert (basis.fit.method, siren.fit.method) == ("exact", "gauss-newton")
        assert basis.train.seed == siren.train.seed == 3
        assert set(whole.search) <= set(Choice.__dataclass_fields__)


def test_pca_is_the_products_and_its_first_numbers_are_smaller_pcas() -> None:
    scans = made_scans(2)
    flat = [part.flatten(1).numpy() for part in (scans.train, scans.test)]
    method = pca(scans.train, 9)
    for numbers in (4, 9):
        expected = float(psnr(pca_mse(flat[0].copy(), flat[1], numbers)).mean())
        assert decibel(method, scans.test, first=numbers) == pytest.approx(expected, abs=2e-3)
    assert len(pca(scans.train, 500).rows) == 39


def test_dct_keeps_the_coefficients_that_vary_most() -> None:
    scans = made_scans(2)
    few, more = (decibel(cosines(scans.train, scans.shape, n), scans.test) for n in (8, 40))
    assert few < more < decibel(cosines(scans.train, scans.shape, 144), scans.test)
    method = cosines(scans.train, scans.shape, 40)
    spread = method.encode(scans.train).var(0)
    assert all(a >= b - 1e-6 for a, b in pairwise(spread.tolist()))


def test_a_stream_shows_every_scan_once_an_epoch_and_each_epoch_its_own_changes() -> None:
    scans = made_scans(2)
    plain = torch.stack(list(islice(scan_stream(scans.train, scans.shape, None, 0), 80)))
    assert torch.equal(plain[:40].sum(0), plain[40:].sum(0)) or torch.allclose(plain[:40].sum(0), plain[40:].sum(0))
    assert not torch.equal(plain[:40], plain[40:])
    augment = augmentation(case())
    first, second = (changed(scans.train[0], scans.shape, augment, 0, epoch, "0") for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert draws(scans.train, scans.shape, augment, most=7).shape == (7, 144, 1)


def test_a_network_is_watched_without_changing_it() -> None:
    here, seen = case(), []
    run = run_of(here, basis_sections(here, here.set.start, here.latent), 0, here.scans.shape)
    watched, _ = trained(run, here.scans.train, [1, 2], lambda step, seconds, _: seen.append((step, seconds)))
    alone, _ = trained(run, here.scans.train)
    assert [step for step, _ in seen] == [1, 2, 4]
    assert all(seconds > 0 for _, seconds in seen)
    assert all(torch.equal(watched.network.params[name], tensor) for name, tensor in alone.network.params.items())
    numbers = alone.encode(here.scans.val)
    assert torch.allclose(alone.decode(numbers), alone.decode_at(numbers, here.scans.shape))
    assert with_fit(alone, keep=3).encode(here.scans.val).shape == (6, 3)


def test_the_coarse_grid_is_every_second_point_of_the_fine_one() -> None:
    assert odd((48, 187)) == (47, 187)
    scans = grid((7, 5))[None]
    for axis in range(2):
        assert torch.allclose(
            cropped(scans[..., axis : axis + 1], (7, 5), (7, 5), 2), grid((4, 3))[None, :, axis : axis + 1]
        )


@pytest.mark.parametrize("how", ["linear", "cosines"])
def test_upsampling_keeps_the_points_that_it_has(how: str) -> None:
    scans = made_scans(3).train[:2]
    fine = upsampled(scans, (8, 8, 8), how)
    assert torch.allclose(cropped(fine, (15, 15, 15), (15, 15, 15), 2), scans, atol=1e-5)
    assert torch.allclose(between(6, how).sum(1), torch.ones(11), atol=1e-5)


def test_cosines_are_exact_for_a_cosine_and_lines_for_a_line() -> None:
    places = torch.arange(11) / 2
    wave = torch.cos(torch.pi / 6 * (places + 0.5) * 2)
    assert torch.allclose(between(6, "cosines") @ wave[::2], wave, atol=1e-5)
    assert torch.allclose(between(6, "linear") @ places[::2], places)


def test_a_score_is_of_clamped_values_and_what_is_not_finite_counts_nothing() -> None:
    scans = torch.full((2, 4, 1), 0.5)
    decoded = torch.stack([torch.full((4, 1), 0.6), torch.full((4, 1), torch.nan)])
    assert score(decoded, scans) == pytest.approx(10.0)
    assert score(torch.full((2, 4, 1), 3.0), torch.ones(2, 4, 1)) == pytest.approx(100.0)


def test_the_search_goes_on_from_the_best_and_does_nothing_twice() -> None:
    here, kept = case(), Kept(None)
    start = here.set.start
    here = replace(here, set=replace(here.set, search={"omega": [5.0, 15.0], "amount": [0.0]}))
    scores = {(20.0, 0.06): 20.0, (5.0, 0.06): 19.0, (15.0, 0.06): 21.0, (15.0, 0.0): 20.5}
    start = replace(start, omega=20.0)
    here = replace(here, set=replace(here.set, start=start))
    for (omega, amount), value in scores.items():
        kept.results[f"quickstart/basis, {replace(start, omega=omega, amount=amount).name}"] = {"validation": value}
    assert searched(here, kept) == replace(start, omega=15.0)
    assert len(kept.results) == len(scores)


END = {
    "choice": {"chosen": "F 8", "latent": 4, "scans": {"train": 9, "val": 2, "test": 3}},
    "basis": {"test": 36.0, "seeds": [36.0, 37.0], "validation": 35.0, "seconds": 9.0, "numbers": 4, "fit_ms": 0.01},
    "siren": {"test": 29.0, "validation": 28.0, "numbers": 4},
    "pca": {"test": 33.0, "validation": 32.0, "numbers": 3},
    "pca of augmented scans": {"test": 36.5, "validation": 35.0, "numbers": 4},
    "dct": {"test": 37.0, "validation": 36.0, "numbers": 4},
    "half grid": {"latent": 2, "shape": [3], "scored": [5], "omega": 10.0, "basis": [30.0, 29.5]},
}


def test_claims_and_rows_tell_the_mean_over_seeds() -> None:
    claims = {claim.what: (round(claim.measured, 3), claim.met) for claim in claims_of("quickstart", END)}
    assert claims["quickstart, test: basis, dB"] == (36.5, True)
    assert claims["quickstart, test: basis over PCA of 3, dB"] == (3.5, True)
    assert claims["quickstart, test: basis over DCT, dB"] == (-0.5, False)
    told_row = row("quickstart", 4, "basis", END["basis"])
    assert (told_row["test dB"], told_row["seeds"]) == ("36.50", "36.00, 37.00")
    assert row("quickstart", 4, "siren", END["siren"])["seeds"] == "–"


def test_a_line_tells_both_grids_and_every_classifier() -> None:
    found = [{"classifier": "1-NN", "accuracy": 0.5, "macro_f1": 0.25}]
    end = {method: {**END[method], "probe": found} for method in ("basis", "siren", "pca", "dct")}
    end |= {"choice": END["choice"], "half grid": END["half grid"], "pca of augmented scans": {"probe": found}}
    lines = "\n".join(lines_of("ecg", end))
    for text in (
        "9 train, 2 val, 3 test",
        "basis 30.00 → 29.50",
        "1-NN on the numbers",
        "siren 0.500 / 0.250",
    ):
        assert text in lines


def test_curves_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    one = {"validation": 30.0, "seconds": 1.0, "fit_ms": 0.1, "over_numbers": [(1, 20.0), (4, 30.0)]}
    whole = {**one, "over_seconds": [(1, 0.5, 25.0), (2, 1.0, 30.0)], "over_fit": [(0.05, 28.0)]}
    end = {name: whole if name in ("basis", "siren") else one for name in field_curves.STYLES}
    assert field_curves.curves(one)[1] == [(1.0, 30.0)]
    assert field_curves.curves(whole)[2] == [(0.05, 28.0), (0.1, 30.0)]
    field_curves.draw({"ecg": end, "cubes": end}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_labels_of_made_scans_are_both() -> None:
    assert case().labels is not None
    assert all(set(np.unique(labels)) == {0, 1} for labels in (case().labels or {}).values())
