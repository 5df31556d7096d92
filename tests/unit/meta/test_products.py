from __future__ import annotations

import pytest
import torch

from medfuncta_dist.meta import products


@pytest.fixture(params=["as it is", "without oneDNN"])
def either_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without oneDNN":
        monkeypatch.setattr(products, "_onednn", lambda: False)


@pytest.mark.usefixtures("either_backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "inner", "columns"), [(5, 3, 4), (1, 7, 1), (130, 40, 150), (64, 1, 129)])
def test_products_are_matrix_products(rows: int, inner: int, columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(inner, rows, generator=generator, dtype=torch.float64).to(dtype).T
    right = torch.randn(inner, columns, generator=generator, dtype=torch.float64).to(dtype)
    base = torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)
    expected = left.double() @ right.double()
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    total = base.clone()
    products.add_product(total, left, right)
    torch.testing.assert_close(products.product(left, right).double(), expected, **near)
    torch.testing.assert_close(products.product_plus_row(base[0], left, right).double(), expected + base[0], **near)
    torch.testing.assert_close(products.product_plus(base, left, right).double(), expected + base, **near)
    torch.testing.assert_close(total.double(), expected + base, **near)


def test_nothing_times_something() -> None:
    assert products.product(torch.zeros(0, 3), torch.zeros(3, 2)).shape == (0, 2)


def test_the_library_that_multiplies_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert products.backend(cpu, torch.float64) == "torch"
    assert products.backend(torch.device("cuda"), torch.float32) == "torch"
    monkeypatch.setattr(products, "_onednn", lambda: True)
    assert products.backend(cpu, torch.float32) == "onednn"
