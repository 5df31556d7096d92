from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.basis import MAP, BasisSpec, features, field, init_params, mean_and_basis, mean_of
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params

TRAINED = BasisSpec(2, 3, 4, 8, 6, 6, (4.0, 7.0, 10.0), mapped=False)
MAPPED = replace(TRAINED, latent=4, mapped=True)


def drawn(spec: BasisSpec, seed: int = 0) -> Params:
    """Random θ; a mean and an M that are not those it starts from."""
    generator = torch.Generator().manual_seed(seed)
    params = init_params(replace(spec, latent=spec.features, mapped=False), generator)
    params |= {"mean.weight": torch.randn(spec.features, generator=generator)}
    mapped = {MAP: torch.randn(spec.features, spec.latent, generator=generator)} if spec.mapped else {}
    return params | mapped


def by_the_formula(spec: BasisSpec, params: Params, x: np.ndarray, latent: np.ndarray) -> list[float]:
    """One point, one scan, in numpy float64: y_d = s_d·m + n_d + s_d M φ."""
    p = {name: tensor.double().numpy() for name, tensor in params.items()}
    h = x
    for k in range(1, spec.layers):
        h = np.sin(spec.omegas[k - 1] * (p[f"layer.{k}.weight"] @ h + p[f"layer.{k}.bias"]))
    values = []
    for d in range(spec.channels):
        s = h[d * spec.features : (d + 1) * spec.features]
        basis = s @ p[MAP] if spec.mapped else s
        values.append(s @ p["mean.weight"] + p["mean.bias"][d] + basis @ latent)
    return values


@pytest.mark.parametrize("spec", [TRAINED, MAPPED], ids=["trained", "mapped"])
def test_field_is_the_formula(spec: BasisSpec) -> None:
    params = {name: tensor.double() for name, tensor in drawn(spec).items()}
    latents = torch.randn(3, spec.latent, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coordinates = grid([3, 4], dtype=torch.float64)
    values = field(spec, params, coordinates, latents)
    expected = [[by_the_formula(spec, params, x.numpy(), z.numpy()) for x in coordinates] for z in latents]
    np.testing.assert_allclose(values.numpy(), np.array(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", [TRAINED, MAPPED], ids=["trained", "mapped"])
def test_mean_and_basis_are_the_parts_of_the_field(spec: BasisSpec) -> None:
    params, coordinates = drawn(spec), grid([5, 4])
    mean, basis = mean_and_basis(spec, params, coordinates)
    assert (mean.shape, basis.shape) == ((20, 3), (20, 3, spec.latent))
    torch.testing.assert_close(field(spec, params, coordinates, torch.zeros(1, spec.latent))[0], mean)
    units = field(spec, params, coordinates, torch.eye(spec.latent)) - mean
    torch.testing.assert_close(units.permute(1, 2, 0), basis, rtol=1e-4, atol=1e-5)
    assert torch.equal(mean_of(params, features(spec, params, coordinates)), mean)


def test_a_shorter_latent_is_one_with_zeros_for_the_rest() -> None:
    params, coordinates = drawn(MAPPED), grid([5, 4])
    latents = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    for kept in (1, 3, 4):
        filled = torch.cat([latents[:, :kept], torch.zeros(3, 4 - kept)], dim=1)
        short = field(MAPPED, params, coordinates, latents[:, :kept])
        torch.testing.assert_close(short, field(MAPPED, params, coordinates, filled), rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError):
        field(MAPPED, params, coordinates, torch.zeros(3, 5))


def test_a_coordinate_decides_not_the_grid_it_is_on() -> None:
    params, latents = drawn(MAPPED), torch.full((1, 4), 0.3)
    coarse = field(MAPPED, params, grid([3, 3]), latents).reshape(3, 3, 3)
    fine = field(MAPPED, params, grid([5, 5]), latents).reshape(5, 5, 3)
    torch.testing.assert_close(fine[::2, ::2], coarse, rtol=1e-5, atol=1e-5)


def test_weights_start_as_a_sirens_and_the_mean_is_grey() -> None:
    spec = BasisSpec(2, 2, 4, 200, 150, 150, (20.0, 30.0, 40.0), mapped=False)
    params = init_params(spec, torch.Generator().manual_seed(0))
    assert {name: tuple(tensor.shape) for name, tensor in params.items()} == spec.shapes()
    bounds = {"layer.1.weight": 1 / 2, "layer.2.weight": math.sqrt(6 / 200) / 30}
    for name, bound in (bounds | {"layer.3.bias": math.sqrt(6 / 200) / 40}).items():
        tensor = params[name]
        assert 0.97 * bound < tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.12)
    assert torch.equal(mean_and_basis(spec, params, grid([3, 3]))[0], torch.full((9, 2), 0.5))


def test_a_seed_fixes_every_weight() -> None:
    first, again, other = (init_params(TRAINED, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in TRAINED.shapes())
    assert not any(torch.equal(first[n], other[n]) for n in TRAINED.shapes() if n.startswith("layer."))


def test_every_tensor_belongs_to_an_omega_and_hidden_matrices_are_those_between_sine_layers() -> None:
    assert [TRAINED.omega(k) for k in (1, 2, 3)] == [4.0, 7.0, 10.0]
    assert TRAINED.hidden_matrices == ["layer.2.weight", "layer.3.weight"]
    found = {name: TRAINED.omega_of(name) for name in TRAINED.shapes()}
    assert (found["layer.2.weight"], found["layer.3.bias"], found["mean.weight"]) == (7.0, 10.0, 4.0)
    assert (TRAINED.widest, replace(TRAINED, hidden=50).widest) == (18, 50)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 2, "omegas": (4.0,)},
        {"omegas": (4.0, 7.0)},
        {"omegas": (4.0, 0.0, 1.0)},
        {"omegas": (4.0, math.inf, 1.0)},
        {"features": 0, "latent": 0},
        {"channels": 0},
        {"coords": -1},
        {"latent": 7, "mapped": True},
        {"latent": 5},
    ],
)
def test_an_impossible_architecture_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RunFileError):
        replace(TRAINED, **changes)


def test_shapes_are_checked_in_the_tests() -> None:
    with pytest.raises(TypeCheckError):
        field(MAPPED, drawn(MAPPED), grid([3, 4]), torch.zeros(4))
