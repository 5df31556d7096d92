from __future__ import annotations

import pytest
import torch

from medfuncta_dist.meta.machine import products
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.onednn import onednn_works

BACKENDS = [Arithmetic("torch"), *([Arithmetic("onednn")] if onednn_works() else [])]


@pytest.mark.parametrize("by", BACKENDS, ids=lambda by: by.products)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "inner", "columns"), [(5, 3, 4), (1, 7, 1), (130, 40, 150), (64, 1, 129)])
def test_products_are_matrix_products(rows: int, inner: int, columns: int, dtype: torch.dtype, by: Arithmetic) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(inner, rows, generator=generator, dtype=torch.float64).to(dtype).T
    right = torch.randn(inner, columns, generator=generator, dtype=torch.float64).to(dtype)
    base = torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)
    expected = left.double() @ right.double()
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    total = base.clone()
    products.add_product(total, left, right, by)
    torch.testing.assert_close(products.product(left, right, by).double(), expected, **near)
    torch.testing.assert_close(products.product_plus_row(base[0], left, right, by).double(), expected + base[0], **near)
    torch.testing.assert_close(products.product_plus(base, left, right, by).double(), expected + base, **near)
    torch.testing.assert_close(total.double(), expected + base, **near)


@pytest.mark.parametrize("by", BACKENDS, ids=lambda by: by.products)
def test_nothing_times_something(by: Arithmetic) -> None:
    assert products.product(torch.zeros(0, 3), torch.zeros(3, 2), by).shape == (0, 2)
