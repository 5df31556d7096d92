from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medfuncta_dist.errors import FormatVersionError, IntegrityError, MedfunctaError
from medfuncta_dist.fields import shared_network
from medfuncta_dist.fields.basis import MAP, BasisSpec
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import FieldSpec, field, init_params
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec

SPECS: dict[str, FieldSpec] = {
    "siren": SirenSpec(2, 2, 4, 8, 6, (4.0, 7.5, 10.0), residual=True, modulate_first=True),
    "basis": BasisSpec(2, 2, 4, 9, 10, 6, (4.0, 7.5, 10.0), mapped=True),
}
VERSIONS = {"siren": 1, "basis": 2}
OF_SIREN = pytest.mark.parametrize("network", ["siren"], indirect=True)
OF_BASIS = pytest.mark.parametrize("network", ["basis"], indirect=True)


@pytest.fixture(params=SPECS)
def network(request: pytest.FixtureRequest) -> SharedNetwork:
    """Of each kind of field."""
    spec, generator = SPECS[request.param], torch.Generator().manual_seed(0)
    params = init_params(spec, generator)
    params |= {MAP: torch.randn(10, 6, generator=generator)} if isinstance(spec, BasisSpec) else {}
    inner = {"steps": 10, "rate": 0.01, "selection_ratio": 0.25}
    return SharedNetwork(spec, params, {"shape": [8, 8], "channels": 2}, inner, "d" * 64, "0.1.0")


def edited(network: SharedNetwork, **changes: Any) -> bytes:
    return json.dumps(json.loads(network.to_files()["network.json"]) | changes).encode()


def repacked(network: SharedNetwork, tensors: dict[str, torch.Tensor]) -> tuple[bytes, bytes]:
    """Other tensors under an honest digest: only names, shapes and types can give them away."""
    other = SharedNetwork(network.spec, network.params, {}, {}, "d" * 64, "0.1.0")
    weights = safetensors.torch.save(tensors)
    other.__dict__["_weights"] = weights
    return weights, other.to_files()["network.json"]


def test_a_network_survives_its_files(network: SharedNetwork, tmp_path: Path) -> None:
    for name, content in network.to_files().items():
        (tmp_path / name).write_bytes(content)
    again = SharedNetwork.load(tmp_path)
    assert again.spec == network.spec
    assert all(torch.equal(again.params[n], network.params[n]) for n in network.spec.shapes())
    assert (again.contract, again.inner, again.dataset_digest) == (network.contract, network.inner, "d" * 64)
    assert again.digest == network.digest
    assert again.to_files() == network.to_files()


def test_the_digest_covers_weights_and_description(network: SharedNetwork) -> None:
    moved = {name: tensor + 1e-6 for name, tensor in network.params.items()}
    others = [
        SharedNetwork(network.spec, moved, network.contract, network.inner, "d" * 64, "0.1.0"),
        SharedNetwork(network.spec, network.params, network.contract, network.inner, "e" * 64, "0.1.0"),
    ]
    assert len({network.digest, *(other.digest for other in others)}) == 3


def test_decode_is_the_field_at_any_resolution(network: SharedNetwork) -> None:
    latents = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    for shape in [(5, 4), (120, 100)]:
        values = network.decode(latents, shape)
        expected = field(network.spec, network.params, grid(shape), latents).transpose(1, 2).reshape(3, 2, *shape)
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    assert network.decode(latents[:0], (5, 4)).shape == (0, 2, 5, 4)


@pytest.mark.parametrize(
    "spec", [SirenSpec(2, 1, 3, 40, 50, (10.0, 20.0)), BasisSpec(2, 1, 3, 40, 90, 70, (10.0, 20.0), mapped=True)]
)
def test_a_scans_bits_do_not_depend_on_what_is_decoded_with_it(spec: FieldSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    params = init_params(spec, generator)
    params |= {MAP: torch.randn(90, 70, generator=generator)} if isinstance(spec, BasisSpec) else {}
    network = SharedNetwork(spec, params, {}, {}, "d" * 64, "0.1.0")
    latents = torch.randn(70, spec.latent, generator=generator)
    together = network.decode(latents, (31, 29))
    for size in (1, 2, 3, 40):
        apart = torch.cat([network.decode(some, (31, 29)) for some in torch.split(latents, size)])
        assert torch.equal(apart, together), f"in groups of {size}"
    order = torch.randperm(70, generator=generator)
    assert torch.equal(network.decode(latents[order], (31, 29)), together[order])
    spoiled = torch.full_like(latents, torch.nan)
    spoiled[7] = latents[7]
    assert torch.equal(network.decode(spoiled, (31, 29))[7], together[7])


@pytest.mark.parametrize("hidden", [64, 300])
def test_a_siren_is_decoded_in_chunks_of_as_many_points_as_ever(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks decide the last bits: what an earlier version decoded is decoded the same."""
    spec, seen = SirenSpec(1, 1, 3, hidden, 2, (5.0, 6.0)), []
    params = init_params(spec, torch.Generator().manual_seed(0))

    def watched(spec: FieldSpec, params: Params, coordinates: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        seen.append(len(coordinates))
        return field(spec, params, coordinates, latents)

    monkeypatch.setattr(shared_network, "field", watched)
    SharedNetwork(spec, params, {}, {}, "d" * 64, "0.1.0").decode(torch.zeros(1, 2), (8197,))
    assert seen == [8192, 5]


@OF_BASIS
def test_shorter_latents_decode_as_if_the_rest_were_zeros(network: SharedNetwork) -> None:
    latents = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    latents[:, 4:] = 0
    torch.testing.assert_close(network.decode(latents[:, :4], (9, 7)), network.decode(latents, (9, 7)))


def test_each_kind_has_its_format_version_and_goes_under_no_other(network: SharedNetwork) -> None:
    files = network.to_files()
    kind = "basis" if isinstance(network.spec, BasisSpec) else "siren"
    described = json.loads(files["network.json"])
    assert described["format_version"] == VERSIONS[kind]
    with pytest.raises(IntegrityError, match=f"a {kind} field, which its format_version does not allow"):
        SharedNetwork.from_files(files["network.safetensors"], edited(network, format_version=3 - VERSIONS[kind]))
    other = described["spec"] | {"kind": "siren" if kind == "basis" else "basis"}
    with pytest.raises(IntegrityError, match="architecture"):
        SharedNetwork.from_files(files["network.safetensors"], edited(network, spec=other))


def test_an_unknown_version_is_refused_by_name(network: SharedNetwork) -> None:
    files = network.to_files()
    with pytest.raises(FormatVersionError, match="3"):
        SharedNetwork.from_files(files["network.safetensors"], edited(network, format_version=3))


def test_weights_of_another_network_are_refused(network: SharedNetwork) -> None:
    files = network.to_files()
    weights = bytearray(files["network.safetensors"])
    weights[-1] ^= 1
    with pytest.raises(IntegrityError, match="SHA-256"):
        SharedNetwork.from_files(bytes(weights), files["network.json"])


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("layer.2.weight", torch.zeros(8, 7)),
        ("layer.2.weight", torch.zeros(8, 8, dtype=torch.float64)),
        ("layer.2.weight", None),
        ("extra", torch.zeros(1)),
    ],
)
def test_tensors_that_the_architecture_does_not_have_are_refused(
    network: SharedNetwork, name: str, tensor: torch.Tensor | None
) -> None:
    tensors = dict(network.params)
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    with pytest.raises(IntegrityError, match=name):
        SharedNetwork.from_files(*repacked(network, tensors))


def with_extras(network: SharedNetwork, **extras: torch.Tensor) -> SharedNetwork:
    named = {name.replace("_", ".", 1): tensor for name, tensor in extras.items()}
    return replace(network, extras=named)


@OF_SIREN
def test_extras_travel_with_the_network_and_count_in_its_digest(network: SharedNetwork) -> None:
    for rates in (torch.rand(6), torch.rand(3, 6), torch.rand(2, 3, 6)):
        one = with_extras(network, inner_rates=rates)
        again = SharedNetwork.from_files(*one.to_files().values())
        assert again.extras.keys() == {"inner.rates"}
        assert torch.equal(again.extras["inner.rates"], rates)
        assert again.params.keys() == network.params.keys()
        assert again.digest == one.digest != network.digest


@OF_BASIS
def test_so_do_the_variances_of_a_latent(network: SharedNetwork) -> None:
    variances = torch.linspace(1, 0, 6)
    one = with_extras(network, latent_variances=variances)
    again = SharedNetwork.from_files(*one.to_files().values())
    assert torch.equal(again.extras["latent.variances"], variances)
    assert again.digest == one.digest != network.digest
    for wrong in (torch.zeros(5), torch.zeros(2, 6), torch.full((6,), torch.nan)):
        with pytest.raises(IntegrityError, match=r"latent\.variances"):
            SharedNetwork.from_files(*repacked(network, network.params | {"latent.variances": wrong}))


@OF_SIREN
@pytest.mark.parametrize(
    "extras",
    [
        {"inner_rates": torch.zeros(5)},
        {"inner_rates": torch.zeros(1, 4, 6)},
        {"inner_rates": torch.full((6,), torch.nan)},
        {"inner_rates": torch.zeros(6, dtype=torch.float64)},
    ],
)
def test_extras_of_another_shape_or_type_are_refused(network: SharedNetwork, extras: dict[str, torch.Tensor]) -> None:
    named = {name.replace("_", ".", 1): tensor for name, tensor in extras.items()}
    with pytest.raises(IntegrityError, match=r"inner\.rates"):
        SharedNetwork.from_files(*repacked(network, network.params | named))


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"format_version": 1}'])
def test_a_description_that_is_none_is_refused(network: SharedNetwork, text: bytes) -> None:
    with pytest.raises(IntegrityError):
        SharedNetwork.from_files(network.to_files()["network.safetensors"], text)


def test_a_damaged_architecture_is_refused(network: SharedNetwork) -> None:
    spec = json.loads(network.to_files()["network.json"])["spec"]
    wrongs = [{**spec, "layers": 5}, {**spec, "colour": 1}, {**spec, "omegas": ["fast"] * 3}, None, [], 7, "siren"]
    wrongs += [{**spec, "kind": kind} for kind in ("wavelet", None, 3, ["basis"], {})]
    wrongs += [{**spec, name: value} for name in ("latent", "hidden") for value in ("6", 6.0, True, -1, None)]
    for wrong in wrongs:
        with pytest.raises(IntegrityError, match="architecture"):
            SharedNetwork.from_files(network.to_files()["network.safetensors"], edited(network, spec=wrong))


def test_bytes_that_are_not_safetensors_are_refused(network: SharedNetwork) -> None:
    other = SharedNetwork(network.spec, network.params, {}, {}, "d" * 64, "0.1.0")
    other.__dict__["_weights"] = b"not tensors"
    with pytest.raises(IntegrityError, match="safetensors"):
        SharedNetwork.from_files(b"not tensors", other.to_files()["network.json"])


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(MedfunctaError, match=r"network\.safetensors"):
        SharedNetwork.load(tmp_path)
