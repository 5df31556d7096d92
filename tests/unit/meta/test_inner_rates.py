from __future__ import annotations

import pytest
import torch

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.meta.inner_rates import inner_rates, layer_rates, of_step

SPEC = SirenSpec(2, 1, 5, 4, 3, (10.0, 20.0, 40.0, 50.0))
LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (0.5, (1, 1, 1)),
        (torch.tensor(0.5), (1, 1, 1)),
        (torch.ones(3), (1, 1, 3)),
        (torch.ones(1), (1, 1, 1)),
        (torch.ones(6, 3), (6, 1, 3)),
        (torch.ones(6, 1), (6, 1, 1)),
        (torch.ones(1, 3, 1), (1, 3, 1)),
        (torch.ones(6, 3, 3), (6, 3, 3)),
    ],
)
def test_every_shape_gets_its_three_axes_and_the_type_of_the_rest(given: object, whole: tuple[int, ...]) -> None:
    rates = inner_rates(SPEC, given, LIKE)  # type: ignore[arg-type]
    assert rates.shape == whole
    assert rates.dtype == torch.float64


@pytest.mark.parametrize("shape", [(4,), (6, 2), (2, 2, 3), (1, 1, 1, 3), (0, 3)])
def test_a_shape_that_fits_no_latent_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RunFileError, match="fit no field of 3 modulated layers and latent size 3"):
        inner_rates(SPEC, torch.ones(shape), LIKE)


def test_steps_beyond_the_last_go_on_with_the_lasts() -> None:
    rates = inner_rates(SPEC, torch.tensor([[1.0], [2.0]]), LIKE)
    assert [of_step(rates, g).item() for g in range(4)] == [1, 2, 2, 2]


def test_layer_rates_fall_with_the_square_of_omega() -> None:
    torch.testing.assert_close(layer_rates(SPEC, 0.8).flatten(), torch.tensor([0.8, 0.2, 0.128]))
