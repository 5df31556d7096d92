from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine import products
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.precision import OVERRIDES, Precision, left_parts, right_parts, rounded, settle_default
from medfuncta_dist.meta.meta_gradient import MetaGradient, meta_gradient
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import with_parts
from tests.unit.meta.problems import problem

CUDA = torch.device("cuda")
WORST: dict[Precision, float] = {"fp32": 1e-6, "tf32": 1e-2, "tf32x3": 2e-6}
"""Relative error of a product, by norm."""


def random_matrices() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(70, 256, generator=generator), torch.randn(256, 50, generator=generator)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_rounding_keeps_eleven_bits_and_goes_to_the_nearest() -> None:
    step = 2.0**-10
    values = torch.tensor([1.0, 1 + step, 1 + 0.4 * step, 1 + 0.5 * step, 1 + 0.6 * step, -(1 + 0.6 * step), 0.0, 3e38])
    expected = torch.tensor([1.0, 1 + step, 1, 1 + step, 1 + step, -(1 + step), 0.0, 3e38])
    torch.testing.assert_close(rounded(values)[:-1], expected[:-1], rtol=0, atol=0)
    assert abs(float(rounded(values)[-1]) / 3e38 - 1) < step
    odd = rounded(torch.tensor([torch.nan, torch.inf, -torch.inf]))
    assert torch.isnan(odd[0])
    assert odd[1:].tolist() == [torch.inf, -torch.inf]


def test_the_parts_of_three_passes_are_what_tensor_cores_keep_and_miss() -> None:
    left, right = random_matrices()
    wide, tall = left_parts(left), right_parts(right)
    assert (wide.shape, tall.shape) == ((70, 768), (768, 50))
    low, high = wide[:, :256], wide[:, 256:512]
    assert torch.equal(high + low, left)
    assert torch.equal(rounded(high), high)
    assert float(low.abs().max()) <= 2.0**-11 * float(left.abs().max())


@pytest.mark.parametrize("precision", WORST)
def test_how_exact_products_are(precision: Precision) -> None:
    left, right = random_matrices()
    base, by = torch.ones(70, 50), Arithmetic("torch", precision=precision)
    exact = left.double() @ right.double()
    total = base.clone()
    products.add_product(total, left, right, by)
    found = [
        (products.product(left, right, by), exact),
        (products.product_plus_row(base[0], left, right, by), exact + 1),
        (products.product_plus(base, left, right, by), exact + 1),
        (total, exact + 1),
    ]
    kept = products.parts_for(right, by)
    assert (kept is None) == (precision != "tf32x3")
    assert torch.equal(products.product(left, right, by, kept), found[0][0])
    assert torch.equal(products.product_plus(base, left, right, by, kept), found[2][0])
    errors = [relative(*pair) for pair in found]
    assert max(errors) < WORST[precision]
    if precision == "tf32":
        assert min(errors) > 1e-5, "operands were not rounded"


def test_float64_stays_float64_whatever_the_precision() -> None:
    left, right = (matrix.double() for matrix in random_matrices())
    assert torch.equal(products.product(left, right, Arithmetic("torch", precision="tf32")), left @ right)


def gradient(precision: Precision) -> MetaGradient:
    """As a GPU's tensor cores would compute it: ``fold`` itself gives a CPU float32."""
    p = problem(2, "paper", 0.5, hidden=32, latent=16, dtype=torch.float32)
    objective = p.objective(Chunks(8, 2), Arithmetic("torch"))
    network = with_parts(replace(objective.network, arithmetic=Arithmetic("torch", precision=precision)))
    return meta_gradient(replace(objective, network=network), p.contexts, p.rate)


def test_a_meta_gradient_of_three_passes_is_as_good_as_float32() -> None:
    p = problem(2, "paper", 0.5, hidden=32, latent=16, dtype=torch.float32)
    double = {name: tensor.double() for name, tensor in p.params.items()}
    exact = replace(p, params=double, coordinates=p.coordinates.double(), targets=p.targets.double())
    exact = replace(exact, latents=p.latents.double())
    truth = meta_gradient(exact.objective(Chunks(8, 2)), p.contexts, p.rate)

    def error(precision: Precision) -> float:
        found = gradient(precision).params
        return max(relative(found[name], tensor) for name, tensor in truth.params.items())

    assert error("fp32") < 1e-5
    assert error("tf32x3") < 2e-5
    assert error("tf32") > 1e-4


def test_a_CPU_computes_in_float32_and_a_GPU_as_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Arithmetic("torch", precision="tf32", captured=True)
    assert asked.require(torch.device("cpu")) == Arithmetic("torch")
    assert asked.require(CUDA) == asked


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_environment_that_decides_over_torch_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    settle_default(torch.device("cpu"))
    with pytest.raises(MedfunctaError, match=name) as found:
        Arithmetic("torch").require(CUDA)
    assert "meta.precision" in found.value.do


def test_what_an_import_has_switched_on_is_switched_off() -> None:
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = True
    try:
        Arithmetic("torch", precision="tf32").require(CUDA)
        assert not matmul.allow_tf32
    finally:
        matmul.allow_tf32 = False
