"""The recursive engine against the unrolled oracle. (The oracle itself is held against finite differences.)"""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.meta_gradient import MetaGradient, adapted_losses, descend, meta_gradient
from medfuncta_dist.meta.outer_loop import LOG_RATES, MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks
from tests.unit.meta.problems import Problem, problem

CHUNKS = [Chunks(7, 1), Chunks(5, 2), Chunks(10_000, 10_000)]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def recursive(p: Problem, chunks: Chunks) -> MetaGradient:
    return meta_gradient(p.objective(chunks), p.contexts, p.rate)


def oracle(p: Problem) -> MetaGradient:
    model = MetaLearner(p.spec, p.params, p.coordinates, p.rate, "unrolled", learn_rates=True)
    start = p.latents.clone().requires_grad_()
    losses = model(p.targets, start, p.contexts)
    losses.sum().backward()
    by = {name: tensor.grad for name, tensor in model.params().items()}
    by_log, rates = by.pop(LOG_RATES), model.rates.detach()
    by_rates = torch.zeros_like(rates) if by_log is None else by_log / rates
    return MetaGradient(losses.detach(), by, start.grad, by_rates)


def assert_near(value: Tensor, expected: Tensor, relative: float) -> None:
    assert (value - expected).norm() <= relative * expected.norm()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_gradient_is_the_oracles(dims: int, variant: str, ratio: float, dtype: torch.dtype) -> None:
    p = problem(dims, variant, ratio, batch=3, steps=2, dtype=dtype)
    expected = oracle(p)
    for chunks in CHUNKS:
        result = recursive(p, chunks)
        assert result.params.keys() == expected.params.keys()
        assert_near(result.losses, expected.losses, TOLERANCE[dtype])
        assert_near(result.latents, expected.latents, TOLERANCE[dtype])
        for name, gradient in result.params.items():
            assert_near(gradient, expected.params[name], TOLERANCE[dtype])


RATES = {
    "one": torch.tensor(0.1),
    "latent": torch.tensor([0.05, 0.1, 0.2]),
    "step": torch.tensor([[0.1], [0.2]]),
    "step x latent": torch.tensor([[0.05, 0.1, 0.2], [0.3, 0.02, 0.1]]),
    "layer": torch.tensor([[[0.1], [0.3]]]),
    "step x layer x latent": torch.linspace(0.02, 0.3, 12).view(2, 2, 3),
}


@pytest.mark.parametrize("ratio", [1.0, 0.5])
@pytest.mark.parametrize("rates", RATES)
def test_rates_of_any_shape_and_their_gradient_are_the_oracles(rates: str, ratio: float) -> None:
    p = problem(2, "paper", ratio, batch=3, steps=3)  # The third step goes on with the second's rates.
    p.rate = RATES[rates].double()
    expected = oracle(p)
    for chunks in CHUNKS:
        result = recursive(p, chunks)
        assert result.rates.shape == expected.rates.shape
        assert expected.rates.abs().min() > 0
        assert_near(result.losses, expected.losses, 1e-10)
        assert_near(result.rates, expected.rates, 1e-10)
        assert_near(result.latents, expected.latents, 1e-10)
        for name, gradient in result.params.items():
            assert_near(gradient, expected.params[name], 1e-10)


def test_rates_of_all_layers_alike_are_the_rates_of_the_latent() -> None:
    p = problem(2, "code", 0.5)
    p.rate = RATES["step x latent"].double()
    together = recursive(p, Chunks(7, 2))
    p.rate = p.rate[:, None].expand(2, 3, 3)
    apart = recursive(p, Chunks(7, 2))
    assert_near(apart.losses, together.losses, 1e-12)
    assert_near(apart.rates.sum(1, keepdim=True), together.rates, 1e-12)
    for name, gradient in apart.params.items():
        assert_near(gradient, together.params[name], 1e-12)


def test_a_wider_network_in_float32_uses_the_fast_products_and_agrees() -> None:
    p = problem(2, "paper", 0.5, hidden=144, latent=16, dtype=torch.float32)
    expected, result = oracle(p), recursive(p, Chunks(8, 2))
    for name, gradient in result.params.items():
        assert_near(gradient, expected.params[name], 1e-4)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_any_number_of_inner_steps_in_the_smallest_chunks(steps: int) -> None:
    p = problem(1, "code", 0.5, steps=steps, batch=2)
    expected, result = oracle(p), recursive(p, Chunks(1, 1))
    assert_near(result.latents, expected.latents, 1e-10)
    for name, gradient in result.params.items():
        if expected.params[name] is not None:
            assert_near(gradient, expected.params[name], 1e-10)


def test_the_path_is_that_of_the_inner_loop() -> None:
    p = problem(3, "paper", 0.5)
    path = descend(p.objective(Chunks(5, 2)), p.contexts, p.rate)
    assert len(path) == len(p.contexts) + 1
    for g in range(len(path)):
        expected = adapt(p.spec, p.params, p.coordinates, p.targets, p.latents, p.contexts[:g], p.rate, False)
        torch.testing.assert_close(path[g], expected, rtol=1e-11, atol=1e-13)


def test_losses_alone_are_those_of_the_whole() -> None:
    p = problem(2, "code", 0.5)
    arguments = (p.objective(Chunks(5, 2)), p.contexts, p.rate)
    torch.testing.assert_close(adapted_losses(*arguments), meta_gradient(*arguments).losses, rtol=1e-12, atol=0)


def test_the_given_parameters_are_left_as_they_are() -> None:
    p = problem(2, "code", 0.5)
    before = {name: tensor.clone() for name, tensor in p.params.items()}
    recursive(p, Chunks(5, 2))
    assert all(torch.equal(before[name], tensor) for name, tensor in p.params.items())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors alive at once, of all that are made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def _gone(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                size = tensor.untyped_storage().nbytes()
                self.now += size
                weakref.finalize(tensor, self._gone, size)
        self.peak = max(self.peak, self.now)
        return result


def peak(p: Problem, chunks: Chunks) -> int:
    with LiveBytes() as live:
        recursive(p, chunks)
    return live.peak


def test_memory_does_not_grow_with_inner_steps_and_only_by_the_data_with_points() -> None:
    small = problem(1, "code", 1.0, steps=2, hidden=64, batch=2)
    more_steps = problem(1, "code", 1.0, steps=12, hidden=64, batch=2)
    chunks = Chunks(4, 1)
    assert peak(more_steps, chunks) - peak(small, chunks) < 10 * 2 * 2 * small.latents.nbytes
    assert peak(small, Chunks(17, 2)) > 1.5 * peak(small, chunks)
