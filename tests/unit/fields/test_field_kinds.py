from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields import basis, field_kinds, siren
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import FieldSpec
from medfuncta_dist.fields.siren import SirenSpec

SIREN = SirenSpec(2, 1, 3, 4, 3, (4.0, 7.5), residual=True, modulate_first=False)
BASIS = BasisSpec(2, 1, 3, 4, 6, 6, (4.0, 7.5), mapped=False)
SPECS = pytest.mark.parametrize("spec", [SIREN, BASIS], ids=["siren", "basis"])


@SPECS
def test_a_description_gives_the_field_back_through_json(spec: FieldSpec) -> None:
    described = json.loads(json.dumps(field_kinds.describe(spec)))
    assert field_kinds.parse(described) == spec


def test_a_sirens_description_is_what_earlier_versions_wrote() -> None:
    found = field_kinds.describe(SIREN)
    assert "kind" not in found
    assert found.keys() == {"coords", "channels", "layers", "hidden", "latent", "omegas", "residual", "modulate_first"}
    assert field_kinds.describe(BASIS)["kind"] == "basis"


@SPECS
def test_parameters_and_values_are_those_of_the_kind(spec: FieldSpec) -> None:
    module = basis if isinstance(spec, BasisSpec) else siren
    params = field_kinds.init_params(spec, torch.Generator().manual_seed(0))
    same = module.init_params(spec, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert params.keys() == spec.shapes().keys()
    assert all(torch.equal(params[name], tensor) for name, tensor in same.items())
    latents = torch.randn(3, spec.latent, generator=torch.Generator().manual_seed(1))
    expected = module.field(spec, params, grid([5, 4]), latents)  # type: ignore[arg-type]
    torch.testing.assert_close(field_kinds.field(spec, params, grid([5, 4]), latents), expected)


@SPECS
def test_no_scan_has_no_values(spec: FieldSpec) -> None:
    params = field_kinds.init_params(spec, torch.Generator().manual_seed(0))
    assert field_kinds.field(spec, params, grid([5, 4]), torch.zeros(0, spec.latent)).shape == (0, 20, 1)


WRONG: list[dict[str, Any]] = [
    {"kind": "wavelet"},
    {"kind": None},
    {"kind": 7},
    {"kind": "siren"},
    {"layers": "3"},
    {"layers": 3.0},
    {"layers": True},
    {"features": None},
    {"latent": 2.5},
    {"latent": 7},
    {"mapped": 1},
    {"mapped": "yes"},
    {"omegas": ["fast", 1.0]},
    {"omegas": None},
    {"omegas": [1.0]},
    {"hidden": -4},
    {"colour": 1},
]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_what_describes_no_field_is_refused_as_such(changes: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, RunFileError)):
        field_kinds.parse(field_kinds.describe(BASIS) | changes)


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers", "3"), ("layers", 3.0), ("layers", True), ("features", None), ("latent", 6.0), ("mapped", 0)],
)
def test_a_number_of_another_type_is_refused_by_name(name: str, value: Any) -> None:
    """Not only by the checks of the tests, which a user's process does not make."""
    with pytest.raises(TypeError, match=f"^{name}$"):
        field_kinds.parse(field_kinds.describe(BASIS) | {name: value})


@pytest.mark.parametrize("name", ["coords", "features", "latent", "mapped", "omegas"])
def test_what_lacks_a_part_is_refused_as_such(name: str) -> None:
    described = field_kinds.describe(BASIS)
    del described[name]
    with pytest.raises((TypeError, ValueError, KeyError)):
        field_kinds.parse(described)


@pytest.mark.parametrize("scans", [1, 3, 4, 9])
def test_a_sirens_scans_in_groups_have_the_values_of_each_alone_whatever_is_beside_them(scans: int) -> None:
    params = field_kinds.init_params(SIREN, torch.Generator().manual_seed(0))
    latents, sizes = torch.randn(9, SIREN.latent, generator=torch.Generator().manual_seed(1)), []

    def values(group: torch.Tensor) -> torch.Tensor:
        sizes.append(len(group))
        return siren.field(SIREN, params, grid([5, 4]), group)

    found = field_kinds.in_groups(values, latents[:scans], 4)
    assert set(sizes) == {4}
    torch.testing.assert_close(found, field_kinds.field(SIREN, params, grid([5, 4]), latents[:scans]))
    assert torch.equal(found, field_kinds.in_groups(values, latents, 4)[:scans])
    assert field_kinds.in_groups(values, latents[:0], 4).shape == (0, 20, 1)


@pytest.mark.gpu
def test_on_a_gpu_a_sirens_values_are_those_of_the_cpu_and_its_kernels_are_launched_for_many_scans() -> None:
    params = field_kinds.init_params(SIREN, torch.Generator().manual_seed(0))
    latents = torch.randn(100, SIREN.latent, generator=torch.Generator().manual_seed(1))
    there = {name: tensor.cuda() for name, tensor in params.items()}
    found = field_kinds.field(SIREN, there, grid([5, 4], "cuda"), latents.cuda())
    torch.testing.assert_close(found.cpu(), field_kinds.field(SIREN, params, grid([5, 4]), latents))
    few = field_kinds.field(SIREN, there, grid([5, 4], "cuda"), latents[:7].cuda())
    assert torch.equal(few, found[:7])
