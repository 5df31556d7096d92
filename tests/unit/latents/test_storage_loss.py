from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from medfuncta_dist.latents.latent_types import StorageType, int8_units, store
from medfuncta_dist.latents.storage_loss import (
    BYTES,
    SCALE_BYTES,
    SCANS_PER_NUMBER,
    Choice,
    Spectrum,
    added_by_int8,
    coarsest,
    left_out,
    predicted_loss,
    rounding,
)

VARIANCES = torch.logspace(-2, -6, 40)
"""As a network's: the largest number varies a hundred times as much as the last."""


@pytest.fixture(scope="module")
def latents() -> Tensor:
    normal = torch.randn(20_000, len(VARIANCES), generator=torch.Generator().manual_seed(0))
    return normal * VARIANCES.sqrt()


def added(latents: Tensor, storage_type: StorageType) -> float:
    """What storing really adds, in mean squared error."""
    restored = store(latents, storage_type, int8_units(VARIANCES, latents.shape[1])).restored()
    return float((restored - latents).double().square().sum(1).mean())


@pytest.mark.parametrize("storage_type", ["float32", "float16", "int8"])
@pytest.mark.parametrize("keep", [1, 7, 40])
def test_what_rounding_adds_is_predicted(latents: Tensor, storage_type: StorageType, keep: int) -> None:
    predicted, measured = float(rounding(VARIANCES, storage_type)[keep - 1]), added(latents[:, :keep], storage_type)
    if storage_type == "int8":  # the number that decides a scan's scale is ±127 steps, and loses nothing
        assert measured <= predicted
        assert keep == 1 or predicted < 1.3 * measured
    else:
        assert predicted == pytest.approx(measured, rel=0.05)


def test_int8_of_known_scales_is_predicted_closely(latents: Tensor) -> None:
    units = int8_units(VARIANCES)
    stored = store(latents, "int8", units)
    predicted = added_by_int8(stored.scales, units.square().sum())
    assert added(latents, "int8") < float(predicted.mean()) < 1.15 * added(latents, "int8")
    assert float(predicted.mean()) == pytest.approx(float(rounding(VARIANCES, "int8")[-1]), rel=0.01)


def test_numbers_that_are_left_out_add_their_variances(latents: Tensor) -> None:
    for keep in (1, 10, 39, 40):
        missing = float(latents[:, keep:].double().square().sum(1).mean())
        assert float(left_out(VARIANCES)[keep - 1]) == pytest.approx(missing, rel=0.03, abs=1e-12)


def test_a_number_that_training_scans_hardly_had_does_not_spoil_the_others(latents: Tensor) -> None:
    """Counted in deviations it would: 1e-3 is a hundred times that of the last number here."""
    variances = torch.cat([VARIANCES, torch.tensor([1e-10])])
    new = torch.cat([latents, torch.full((len(latents), 1), 1e-3)], 1)
    by_root, by_deviation = (
        float((store(new, "int8", units).restored() - new).square().sum(1).mean())
        for units in (int8_units(variances), variances.sqrt())
    )
    assert by_root < 1.5 * added(latents, "int8")
    assert by_deviation > 100 * by_root


def test_units_are_the_same_for_the_first_numbers_and_none_where_nothing_varies() -> None:
    assert torch.equal(int8_units(VARIANCES, 5), int8_units(VARIANCES)[:5])
    assert int8_units(None) is None
    assert int8_units(torch.zeros(3)) is None
    assert coarsest(1.0, Spectrum(torch.zeros(3), 1e-3, 100)) == Choice("float16", 1, 0.0)


@pytest.mark.parametrize("storage_type", ["float16", "int8"])
def test_the_predicted_loss_is_that_of_scans_with_this_residual(latents: Tensor, storage_type: StorageType) -> None:
    residual = 1e-4
    spectrum = Spectrum(VARIANCES, residual, 10_000)
    measured = 10 * math.log10(1 + added(latents, storage_type) / residual)
    assert predicted_loss(spectrum, storage_type) == pytest.approx(measured, abs=0.006)
    assert predicted_loss(spectrum, "float32") == 0
    assert predicted_loss(spectrum, "float32", 10) == pytest.approx(
        10 * math.log10(1 + float(VARIANCES[10:].sum()) / residual), rel=1e-5
    )


SPECTRA = st.builds(
    Spectrum,
    st.lists(st.floats(2**-30, 1, width=32), min_size=1, max_size=12).map(
        lambda values: torch.tensor(sorted(values, reverse=True))
    ),
    st.floats(0, 1e-2),
    st.sampled_from([0, 30, 1000]),
)


@given(SPECTRA, st.floats(1e-6, 30))
def test_nothing_within_the_promise_takes_fewer_bytes(spectrum: Spectrum, promise: float) -> None:
    chosen = coarsest(promise, spectrum)
    assert chosen.loss <= promise
    assert chosen.loss == predicted_loss(spectrum, chosen.storage_type, chosen.keep)
    for storage_type, keep in itertools.product(BYTES, range(1, spectrum.latent + 1)):
        loss = predicted_loss(spectrum, storage_type, keep)
        if loss is not None and loss <= promise:
            assert size(storage_type, keep) >= size(chosen.storage_type, chosen.keep or spectrum.latent)


def size(storage_type: StorageType, keep: int) -> int:
    return BYTES[storage_type] * keep + (SCALE_BYTES if storage_type == "int8" else 0)


def test_numbers_are_left_out_only_where_scans_tell_what_that_costs() -> None:
    enough = SCANS_PER_NUMBER * len(VARIANCES)
    assert coarsest(1, Spectrum(VARIANCES, 1e-4, enough)).keep is not None
    few = Spectrum(VARIANCES, 1e-4, enough - 1)
    assert coarsest(1, few).keep is None
    assert predicted_loss(few, "int8", 20) is None
    assert predicted_loss(few, "int8", 40) is not None
