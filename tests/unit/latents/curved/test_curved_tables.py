from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from medfuncta_dist.errors import FormatVersionError, IntegrityError, MedfunctaError
from medfuncta_dist.fields import safe_tensors
from medfuncta_dist.latents.curved.curved_tables import LARGEST_SYMBOL, NAMES, CurvedTables, mapped_by
from tests.unit.latents.curved.made_tables import LATENT, tables


def test_latents_are_the_correctly_rounded_sums() -> None:
    made = tables()
    symbols = np.random.default_rng(0).integers(-LARGEST_SYMBOL, LARGEST_SYMBOL + 1, (20, LATENT)).astype(np.int32)
    found = made.latents(symbols)
    for row, latent in zip(symbols.tolist(), found, strict=True):
        for i in range(LATENT):
            exact = sum(n * q for n, q in zip(made.numbers[i].tolist(), row, strict=True))
            assert abs(exact) < 2**53
            scaled = float(Fraction(exact) * Fraction(2) ** int(made.exponents[i]))
            assert np.float32(scaled + float(made.mean[i])) == latent[i]


def test_no_order_of_summation_changes_a_bit() -> None:
    made = tables()
    symbols = np.random.default_rng(1).integers(-5000, 5000, (50, LATENT)).astype(np.int32)
    order = np.random.default_rng(2).permutation(LATENT)
    shuffled = replace(made, numbers=np.ascontiguousarray(made.numbers[:, order]))
    whole = made.latents(symbols)
    assert (shuffled.latents(symbols[:, order]) == whole).all()
    assert all((made.latents(symbols[i : i + 1]) == whole[i]).all() for i in range(50))
    exact = torch.from_numpy(symbols).double() @ torch.from_numpy(made.map).T
    assert (
        (torch.ldexp(exact, torch.from_numpy(made.exponents)) + torch.from_numpy(made.mean).double())
        .float()
        .equal(torch.from_numpy(whole))
    )


def test_whole_numbers_come_as_near_as_float32_does() -> None:
    transform = np.random.default_rng(3).normal(size=(300, 300)) * np.geomspace(1e-6, 1e6, 300)[:, None]
    _, numbers, exponents = mapped_by(np.zeros(300), transform)
    error = np.abs(np.ldexp(numbers.astype(np.float64), exponents[:, None]) - transform).max(1)
    assert (error <= 2**-23 * np.abs(transform).max(1)).all()
    assert np.abs(numbers.astype(np.float64)).max() * 300 * LARGEST_SYMBOL < 2**53


def test_they_are_read_as_they_were_written() -> None:
    made = tables()
    data = made.to_bytes()
    read = CurvedTables.from_bytes(data, "here")
    assert read.to_bytes() == data == tables().to_bytes()
    assert read.proof == made.proof != b""
    assert (read.latents(read.proof_row()[None]) == made.latents(made.proof_row()[None])).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"frequencies": tables().frequencies + 1},
        {"frequencies": tables().frequencies[:-1]},
        {"counts": tables().counts + 1},
        {"reaches": tables().reaches - 5000},
        {"numbers": np.full((LATENT, LATENT), 2**31 - 1, np.int32)},
        {"numbers": tables().numbers[:, 1:]},
        {"mean": np.full(LATENT, np.inf, np.float32)},
        {"mean": np.zeros(LATENT, np.float64)},
        {"exponents": np.full(LATENT, 5000, np.int32)},
        {"proof": b""},
    ],
)
def test_what_cannot_be_tables_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        CurvedTables.from_bytes(replace(tables(), **changes).to_bytes(), "here")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_types_that_numpy_may_lack_are_refused(name: str, dtype: torch.dtype) -> None:
    _, tensors = safe_tensors.load(tables().to_bytes())
    tensors[name] = tensors[name].to(dtype)
    with pytest.raises(IntegrityError, match="other types of numbers"):
        CurvedTables.from_bytes(safetensors.torch.save(tensors, {"format_version": "1"}), "here")


def test_another_version_is_refused_by_name() -> None:
    data = tables().to_bytes().replace(b'"format_version":"1"', b'"format_version":"9"')
    with pytest.raises(FormatVersionError):
        CurvedTables.from_bytes(data, "here")


def test_damaged_bytes_are_an_error_of_ours_or_nothing() -> None:
    good = tables().to_bytes()
    for seed in range(300):
        bit = random.Random(seed).randrange(8 * len(good))
        data = good[: bit // 8] + bytes([good[bit // 8] ^ 1 << bit % 8]) + good[bit // 8 + 1 :]
        try:
            CurvedTables.from_bytes(data, "here")
        except MedfunctaError:
            continue
    for size in range(0, len(good), 97):
        with pytest.raises(MedfunctaError):
            CurvedTables.from_bytes(good[:size], "here")
