from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec, field, init_bound, init_params

PAPER = SirenSpec(2, 3, 5, 8, 6, (4.0, 7.0, 10.0, 13.0), residual=False, modulate_first=False)
CODE = SirenSpec(2, 3, 5, 8, 6, (10.0, 15.0, 20.0, 25.0), residual=True, modulate_first=True)


def drawn(spec: SirenSpec, seed: int = 0) -> Params:
    return init_params(spec, torch.Generator().manual_seed(seed))


def by_the_formula(spec: SirenSpec, params: Params, x: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """One point, one scan, in numpy float64."""
    p = {name: tensor.double().numpy() for name, tensor in params.items()}
    h = x
    for k in range(1, spec.layers):
        phase = p[f"layer.{k}.weight"] @ h + p[f"layer.{k}.bias"]
        if k > 1 or spec.modulate_first:
            phase = phase + p[f"modulation.{k}.weight"] @ latent + p[f"modulation.{k}.bias"]
        wave = np.sin(spec.omegas[k - 1] * phase)
        h = h + wave if spec.residual and k > 1 else wave
    return p[f"layer.{spec.layers}.weight"] @ h + p[f"layer.{spec.layers}.bias"] + 0.5


@pytest.mark.parametrize("spec", [PAPER, CODE], ids=["paper", "public-code"])
def test_field_is_the_published_formula(spec: SirenSpec) -> None:
    params = {name: tensor.double() for name, tensor in drawn(spec).items()}
    latents = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coordinates = grid([3, 4], dtype=torch.float64)
    values = field(spec, params, coordinates, latents)
    expected = [[by_the_formula(spec, params, x.numpy(), z.numpy()) for x in coordinates] for z in latents]
    np.testing.assert_allclose(values.numpy(), np.array(expected), rtol=1e-12, atol=1e-12)


def test_a_coordinate_decides_not_the_grid_it_is_on() -> None:
    params, latents = drawn(CODE), torch.full((1, 6), 0.1)
    coarse = field(CODE, params, grid([3, 3]), latents).reshape(3, 3, 3)
    fine = field(CODE, params, grid([5, 5]), latents).reshape(5, 5, 3)
    torch.testing.assert_close(fine[::2, ::2], coarse, rtol=1e-5, atol=1e-5)


def test_weights_are_uniform_within_the_published_bounds() -> None:
    spec = SirenSpec.linear(coords=2, channels=1, layers=4, hidden=200, latent=300, omega_first=20, omega_last=50)
    bounds = {
        "layer.1.weight": 1 / 2,
        "layer.2.weight": math.sqrt(6 / 200) / 30,
        "layer.4.weight": math.sqrt(6 / 200) / 50,
    }
    bounds |= {"layer.3.bias": math.sqrt(6 / 200) / 40, "modulation.2.weight": 1 / math.sqrt(300)}
    params = drawn(spec)
    for name, bound in bounds.items():
        assert init_bound(spec, name) == pytest.approx(bound)
        tensor = params[name]
        assert tensor.abs().max() <= bound
        assert tensor.abs().max() > 0.97 * bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.12)
        assert abs(tensor.mean().item()) < 0.15 * bound


def test_a_seed_fixes_every_weight() -> None:
    first, again, other = drawn(PAPER, 3), drawn(PAPER, 3), drawn(PAPER, 4)
    assert all(torch.equal(first[n], again[n]) for n in PAPER.shapes())
    assert not any(torch.equal(first[n], other[n]) for n in PAPER.shapes())


def test_omega_rises_linearly_over_all_layers() -> None:
    spec = SirenSpec.linear(coords=1, channels=1, layers=5, hidden=2, latent=2, omega_first=20, omega_last=60)
    assert spec.omegas == (20.0, 30.0, 40.0, 50.0)
    assert [spec.omega(k) for k in range(1, 6)] == [20.0, 30.0, 40.0, 50.0, 60.0]


def test_only_modulated_layers_carry_a_modulation() -> None:
    assert [k for k in range(1, 6) if f"modulation.{k}.weight" in PAPER.shapes()] == [2, 3, 4]
    assert [k for k in range(1, 6) if f"modulation.{k}.weight" in CODE.shapes()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("layers", "omegas"), [(2, (1.0,)), (4, (1.0, 2.0)), (3, (1.0, 0.0)), (3, (1.0, math.inf)), (3, (-1.0, 2.0))]
)
def test_an_impossible_architecture_is_refused(layers: int, omegas: tuple[float, ...]) -> None:
    with pytest.raises(RunFileError):
        SirenSpec(2, 1, layers, 4, 4, omegas)


def test_shapes_are_checked_in_the_tests() -> None:
    with pytest.raises(TypeCheckError):
        field(PAPER, drawn(PAPER), grid([3, 4]), torch.zeros(6))
