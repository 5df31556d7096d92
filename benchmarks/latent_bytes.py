"""How many bytes curved latents take, beside int8 with zlib, and what they cost: held-out scans of two data sets.

Chest X-rays (PneumoniaMNIST, ``--data``) with a basis field, and an electrocardiogram with both kinds of field, trained
briefly as the product trains. The tables of curved latents are made as the fit stage makes them, from training scans
alone, with the default bound of loss; bytes and loss are those of the held-out scans. Bytes of int8 are the smaller
of zlib (level 9, all scans together) and a Parquet column (zstd, as the product writes it, or gzip), with the scans'
scales; bytes of curved are those of the Parquet column, lengths and page headers included.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks import preset_scans
from benchmarks.common import Claim, report
from benchmarks.field_methods import FIT_AT_ONCE, Learned, trained
from benchmarks.field_sets import SETS, Case, basis_sections, run_of
from medfuncta_dist.config.sections.fit_section import DEFAULT_CURVED_LOSS
from medfuncta_dist.evaluation.metrics import psnr
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fitting.table_trial import SCANS
from medfuncta_dist.latents.curved.curved_tables import CurvedTables
from medfuncta_dist.latents.curved.row_coder import RowCoder
from medfuncta_dist.latents.curved.table_design import design, judging, symbols_of
from medfuncta_dist.latents.image_curvature import image_curvature
from medfuncta_dist.latents.latent_types import int8_units, store

CASES = (("pneumonia", "basis"), ("ecg", "basis"), ("ecg", "siren"))
FEWER, MOST_LOSS = 0.4, 0.2
"""Share of int8's bytes that is saved, and dB."""


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few steps on made scans; writes no results")
    parser.add_argument("--data", type=Path, help="pneumoniamnist.npz")
    given, began = parser.parse_args(), time.perf_counter()
    found = [measured(name, kind, given.data, given.short) for name, kind in CASES]
    claims = [claim for one in found for claim in claims_of(one)]
    notes = [
        f"Tables from at most {SCANS} training scans, bound {DEFAULT_CURVED_LOSS:g} dB of loss on a third of them.",
        "Bytes per held-out scan. `shared` is stored once per latent table, whatever the number of scans.",
    ]
    report("latent_bytes", given.short, began, {"sets": found}, claims, [row_of(one) for one in found], notes)


def measured(name: str, kind: str, data: Path | None, short: bool) -> dict[str, Any]:
    """One data set with one kind of field."""
    scans = scans_of(name, data, short)
    learned = learned_of(name, kind, scans, short)
    chosen = np.linspace(0, len(scans.train) - 1, min(SCANS, len(scans.train))).round().astype(int)
    training = scans.train[torch.from_numpy(chosen)]
    latents, held_out = learned.encode(training).numpy(), learned.encode(scans.test)
    network = learned.network
    shared = SharedNetwork(network.spec, network.params, {}, {}, "", "", network.extras)
    curvature = image_curvature(shared, latents, scans.shape)
    judged = training[torch.from_numpy(judging(len(latents)))]
    designed = design(
        latents, curvature, lambda some: quality(learned, torch.from_numpy(some), judged), DEFAULT_CURVED_LOSS
    )
    before = quality(learned, held_out, scans.test)
    curved, streams = stored_curved(designed.tables, held_out)
    int8 = store(held_out, "int8", int8_units(network.extras.get("latent.variances")))

    def loss(some: Tensor) -> float:
        return float((before - quality(learned, some, scans.test)).mean())

    return {
        "set": name,
        "kind": kind,
        "scans": len(held_out),
        "numbers": held_out.shape[1],
        "psnr": float(before.mean()),
        "int8": {"loss": loss(int8.restored()), **int8_bytes(int8.numbers.numpy(), int8.scales.numpy())},
        "curved": {
            "training loss": designed.loss,
            "loss": loss(curved),
            "streams": float(np.mean([len(one) for one in streams])),
            "column": column_bytes(pa.table({"latent": pa.array(streams, pa.binary())}), "NONE"),
            "shared": len(designed.tables.to_bytes()),
        },
    }


def scans_of(name: str, data: Path | None, short: bool) -> preset_scans.Scans:
    """Held-out rows of the electrocardiogram begin at every sample: a column of few rows is mostly its header."""
    if short:
        return preset_scans.made_scans(1 if name == "ecg" else 2)
    if name == "ecg":
        return preset_scans.electrocardiogram(held_out=1)
    if data is None:
        raise SystemExit("--data names pneumoniamnist.npz")
    return preset_scans.pneumonia(data)


def learned_of(name: str, kind: str, scans: preset_scans.Scans, short: bool) -> Learned:
    """Trained with the settings of `fields.py`."""
    case = Case(name, SETS[name], scans)
    sections = basis_sections(case, case.set.start, case.set.latent) if kind == "basis" else case.set.siren
    if short:
        small = {"latent": 16, "features": 32, "hidden": 16} if kind == "basis" else {"latent": 16, "hidden": 16}
        sections = {**sections, "field": {**sections["field"], **small}}
        sections = {**sections, "train": {**sections["train"], "steps": 3, "warmup_steps": 1}}
    learned, seconds = trained(run_of(case, sections, 0, scans.shape), scans.train)
    print(f"{name}, {kind}: trained in {seconds:.0f} s of CPU time", file=sys.stderr, flush=True)
    return learned


def quality(learned: Learned, latents: Tensor, scans: Tensor) -> np.ndarray:
    """PSNR of each scan, in dB."""
    pairs = zip(latents.split(FIT_AT_ONCE), scans.split(FIT_AT_ONCE), strict=True)
    errors = [
        (learned.decode(some).clamp(0, 1) - values).flatten(1).double().square().mean(1) for some, values in pairs
    ]
    return psnr(torch.cat(errors).numpy())


def stored_curved(tables: CurvedTables, latents: Tensor) -> tuple[Tensor, list[bytes]]:
    """Latents as they are read again, and their streams."""
    coder = RowCoder(tables)
    symbols = symbols_of((latents.numpy().astype(np.float64) - tables.mean) @ tables.inverse.T)
    streams = coder.encode(symbols)
    assert (coder.decode(streams) == symbols).all()
    return torch.from_numpy(tables.latents(symbols)), streams


def int8_bytes(numbers: np.ndarray, scales: np.ndarray) -> dict[str, float]:
    """Per scan, in three ways."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), numbers.shape[1])
    table = pa.table({"latent": values, "scale": pa.array(scales)})
    return {
        "zlib": (len(zlib.compress(numbers.tobytes(), 9)) + scales.nbytes) / len(numbers),
        "parquet zstd": column_bytes(table, "ZSTD"),
        "parquet gzip": column_bytes(table, "GZIP"),
    }


def column_bytes(table: pa.Table, compression: str) -> float:
    """Per row, of all columns as a Parquet file has them."""
    buffer = io.BytesIO()
    encoding = {"column_encoding": {"latent": "DELTA_LENGTH_BYTE_ARRAY"}} if compression == "NONE" else {}
    pq.write_table(table, buffer, compression=compression, use_dictionary=False, **encoding)
    found = pq.ParquetFile(buffer).metadata
    places = [(group, column) for group in range(found.num_row_groups) for column in range(found.num_columns)]
    return sum(found.row_group(g).column(c).total_compressed_size for g, c in places) / table.num_rows


def smallest(one: dict[str, Any]) -> float:
    """Bytes of int8."""
    return min(value for way, value in one["int8"].items() if way != "loss")


def claims_of(one: dict[str, Any]) -> Sequence[Claim]:
    """Of one data set and kind."""
    what = f"{one['set']}, {one['kind']} field"
    return (
        Claim(f"{what}: share of int8's bytes that is saved", 1 - one["curved"]["column"] / smallest(one), FEWER, True),
        Claim(f"{what}: loss of PSNR on held-out scans (dB)", one["curved"]["loss"], MOST_LOSS, False),
    )


def row_of(one: dict[str, Any]) -> dict[str, Any]:
    """Of the table."""
    int8, curved = one["int8"], one["curved"]
    return {
        "scans": f"{one['set']}, {one['kind']}, P = {one['numbers']}",
        "held out": one["scans"],
        "float32, dB": one["psnr"],
        "int8 loss, dB": int8["loss"],
        "zlib": int8["zlib"],
        "Parquet zstd": int8["parquet zstd"],
        "Parquet gzip": int8["parquet gzip"],
        "curved loss, dB": curved["loss"],
        "streams": curved["streams"],
        "Parquet": curved["column"],
        "fewer than int8's smallest": 1 - curved["column"] / smallest(one),
        "shared": curved["shared"],
    }


if __name__ == "__main__":
    main()
