"""Files made to harm, and real files with bytes changed, cut or put in: a result, or an error of ours; nothing else.

MEDFUNCTA_CHAOS=full tries many more mutations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medfuncta_dist.config.load import parse
from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.basis import MAP, BasisSpec
from medfuncta_dist.fields.field_kinds import init_params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.table_format import Rows, parse_table, part_table, table_bytes
from medfuncta_dist.scans.readers.reader_registry import reader_named
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.shards.sample import decode, encode
from medfuncta_dist.shards.shard_index import IndexRow, index_bytes, index_table, parse_index
from medfuncta_dist.shards.snapshot import Snapshot
from medfuncta_dist.storage.commit_record import make_record, parse_record
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.leases.lease import parse_lease
from tests.bundles import bundled, read_through
from tests.chaos.bombs import BOMBS
from tests.kinds import KINDS
from tests.unit.scans.archive import NIBABEL, PYDICOM
from tests.writers import (
    colour_png,
    write_dicom,
    write_ecg_csv,
    write_medmnist,
    write_mgh,
    write_nifti,
    write_png,
    write_wfdb,
)

pytestmark = pytest.mark.fault("hostile-input")

FULL = os.environ.get("MEDFUNCTA_CHAOS") == "full"
SHORT, LONG = 250, 4000
"""Mutations of a kind of file, in `make test` and in `make chaos`."""
MUTATIONS = LONG if FULL else SHORT
SKIMAGE = Path(skimage.__file__).parent / "data"
SECONDS = 5.0
"""Of processor time that reading one may take; they have a few kilobytes."""

Read = Callable[[bytes], object]


def test_small_files_that_ask_for_everything(tmp_path: Path, measured: Callable[[str], None]) -> None:
    command = [sys.executable, "-m", "tests.chaos.bombs", str(tmp_path)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    outcomes = [json.loads(line) for line in completed.stdout.splitlines()]
    assert [o["bomb"] for o in outcomes] == list(BOMBS)
    assert [o for o in outcomes if o["outcome"] != "refused"] == []
    slowest = max(o["seconds"] for o in outcomes)
    assert slowest < SECONDS
    measured(f"{len(outcomes)} bombs refused within 768 MiB, the slowest in {slowest:.1f} s")


FORMS = ("16", "212", "516")
"""Of WFDB's signal files: plain, packed, FLAC."""
COMPRESSED = ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "SC_rgb_small_odd_jpeg")
"""A decoder for each family of syntaxes."""


def by_reader(name: str, suffix: str, folder: Path) -> Read:
    """Read bytes as a source of packing: the only other outcome is a scan that is refused alone."""
    path = folder / f"mutant{suffix}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for found in reader_named(name).scans(path):
            assert isinstance(found.scan, Scan | MedfunctaError)

    return read


def sources(folder: Path) -> dict[str, tuple[Read, list[bytes]]]:
    """Real and written files of every format."""
    written = {
        "nifti": ("nifti", ".nii", [write_nifti(folder / "a.nii", (5, 6, 4)), NIBABEL / "anatomical.nii"]),
        "nifti, gzip": ("nifti", ".nii.gz", [write_nifti(folder / "a.nii.gz", (5, 6, 4))]),
        "dicom": (
            "dicom",
            ".dcm",
            [write_dicom(folder / "a.dcm"), *(PYDICOM / n for n in ("CT_small.dcm", "MR_small_implicit.dcm"))],
        ),
        "dicom, compressed": ("dicom", ".dcm", [PYDICOM / f"{name}.dcm" for name in COMPRESSED]),
        "nifti series": (
            "nifti",
            ".nii.gz",
            [write_nifti(folder / "s.nii.gz", array=np.zeros((4, 5, 3, 3), np.int16))],
        ),
        "mgh": ("mgh", ".mgh", [write_mgh(folder / "a.mgh", np.zeros((4, 5, 6, 2), np.int16), np.eye(4))]),
        "tiff": ("tiff", ".tif", [*write_tiffs(folder), SKIMAGE / "multipage.tif"]),
        "bmp": ("image", ".bmp", [write_png(folder / "a.bmp"), write_png(folder / "b.bmp", mode="RGB")]),
        "png": (
            "image",
            ".png",
            [write_png(folder / "a.png"), write_png(folder / "b.png", mode="RGBA"), deep_png(folder / "c.png")],
        ),
        "jpeg": ("image", ".jpg", [write_png(folder / "a.jpg", mode="RGB")]),
        "npz": ("medmnist", ".npz", [write_medmnist(folder / "a.npz", (6, 6), {"train": 3, "test": 2})]),
        "csv": ("ecg-csv", ".csv", [write_ecg_csv(folder / "a.csv", rows=2)]),
        "wfdb, header": ("wfdb", ".hea", [write_wfdb(folder / f"{form}.hea", 50, form=form) for form in FORMS]),
        "dicom, waveforms": ("ecg-dicom", ".dcm", [PYDICOM / "waveform_ecg.dcm"]),
    }
    signals = {f"wfdb, signals {form}": signal_file(folder / f"{form}.hea") for form in FORMS}
    return signals | {
        name: (by_reader(reader, suffix, folder), [path.read_bytes() for path in paths])
        for name, (reader, suffix, paths) in written.items()
    }


BUNDLES = (".zip", ".tar", ".tar.gz", ".tar.xz")


def bundle(suffix: str, folder: Path) -> tuple[Read, list[bytes]]:
    """An archive file of slices and a picture."""
    files = {
        "a/IM1": write_dicom(folder / "a.dcm").read_bytes(),
        "patient1.png": write_png(folder / "a.png").read_bytes(),
    }
    path = folder / f"mutant{suffix}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_through(path)

    return read, [bundled(files, suffix)]


def deep_png(path: Path) -> Path:
    """A PNG of 16 bits a colour."""
    path.write_bytes(colour_png(np.arange(60, dtype=np.uint16).reshape(4, 5, 3) * 999))
    return path


def write_tiffs(folder: Path) -> list[Path]:
    """A TIFF for each way of reading one."""
    array = np.arange(60, dtype=np.uint16).reshape(4, 5, 3) * 999
    tifffile.imwrite(folder / "plain.tif", array, photometric="rgb")
    tifffile.imwrite(folder / "tiled.tif", array, photometric="rgb", compression="zlib", tile=(16, 16))
    Image.fromarray(array[..., 0]).save(folder / "lzw.tif", compression="tiff_lzw")
    return [folder / f"{name}.tif" for name in ("plain", "tiled", "lzw")]


def signal_file(header: Path) -> tuple[Read, list[bytes]]:
    """The same for the signal file of a record, whose header is in order."""
    folder = header.parent / header.stem
    folder.mkdir()
    path = write_wfdb(folder / header.name, 50, form=header.stem).with_suffix(".dat")

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for found in reader_named("wfdb").scans(folder / header.name):
            assert isinstance(found.scan, Scan | MedfunctaError)

    return read, [path.read_bytes()]


def stored() -> dict[str, tuple[Read, list[bytes]]]:
    """Files of our own."""
    scan = Scan(np.arange(24, dtype=np.int16).reshape(1, 4, 6), (1.0, 2.0), np.eye(4), "MR", Window(0.0, 9.0), (3,))
    npy, meta = encode("k", scan)
    index = [IndexRow("a" * 64, "b" * 64, "", 512, 600, 1, 2048, 200, 2)]
    rows = Rows(
        split="train",
        keys=["k"],
        labels=[[1]],
        latents=np.ones((1, 4), np.float32),
        scales=None,
        psnr=np.array([30.0], np.float32),
        below_min=np.array([False]),
        steps=np.array([5], np.int32),
        windows=[[0.0, 1.0]],
        spacings=[[1.0]],
        affines=[None],
        modalities=["MR"],
        slices=[None],
    )
    small = replace(rows, latents=np.ones((1, 4), np.int8), scales=np.ones(1, np.float32))
    tables = [part_table(rows, 4, "float32", {}), part_table(small, 4, "int8", {}, np.ones(4, np.float32))]
    record = canonical_json(make_record("pack", {"a": [1, 2.5, None], "b": {"c": "d"}}, 3))
    snapshot = Snapshot("d", None, {"shape": [4]}, {"train": []}, counts={"scans": 0}).to_bytes()
    return {
        "sample, npy": (lambda data: decode("k", data, meta), [npy]),
        "sample, json": (lambda data: decode("k", npy, data), [meta]),
        "index": (
            lambda data: parse_index(data, shard_size=10_000, samples=1, where="here"),
            [index_bytes(index_table(index))],
        ),
        "latents": (lambda data: parse_table(data, "here"), [table_bytes(table) for table in tables]),
        **{name: reader for kind in KINDS for name, reader in stored_network(kind).items()},
        "record": (lambda data: parse_record(data, "pack", "here"), [record]),
        "lease": (lambda data: parse_lease(data, "here"), [record]),
        "snapshot": (lambda data: Snapshot.from_bytes(data, "here"), [snapshot]),
        "run file": (lambda data: parse(data.decode("latin-1")), [Path("jobs/quickstart.yaml").read_bytes()]),
    }


def stored_network(kind: str) -> dict[str, tuple[Read, list[bytes]]]:
    """The two files of a shared network: each with the other one whole."""
    files = network(kind).to_files()
    weights, description = files["network.safetensors"], files["network.json"]
    return {
        f"{kind} network, tensors": (lambda data: SharedNetwork.from_files(data, description), [weights]),
        f"{kind} network, json": (lambda data: SharedNetwork.from_files(weights, data), [description]),
    }


def network(kind: str) -> SharedNetwork:
    generator, extras = torch.Generator().manual_seed(0), {}
    if kind == "basis":
        spec = BasisSpec(2, 1, 3, 4, 6, 4, (5.0, 10.0), mapped=True)
        params = init_params(spec, generator) | {MAP: torch.eye(6)[:, :4].contiguous()}
        extras = {"latent.variances": torch.ones(4)}
    else:
        spec = SirenSpec.linear(coords=2, channels=1, layers=3, hidden=4, latent=4, omega_first=5, omega_last=10)
        params = init_params(spec, generator)
    return SharedNetwork(spec, params, {"shape": [4, 4]}, {}, "d" * 64, "test", extras)


EXTREMES = [
    b"\0" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
    b"-1",
    b"9" * 20,
]


@st.composite
def mutant(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A file with a few places changed: bits flipped, numbers made extreme, bytes cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        # Headers are where harm is done: half of the changes go into the first bytes.
        at = draw(st.integers(0, len(data)) | st.integers(0, min(400, len(data))))
        match draw(st.integers(0, 5)):
            case 0 if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                extreme = draw(st.sampled_from(EXTREMES))
                data[at : at + len(extreme)] = extreme
            case 2:
                del data[at:]
            case 3:
                del data[at : at + draw(st.integers(1, 64))]
            case 4:
                data[at:at] = draw(st.binary(max_size=16))
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 256))]
    return bytes(data)


def unharmed(read: Read, data: bytes) -> None:
    began = time.process_time()
    with suppress(MedfunctaError):
        read(data)
    assert time.process_time() - began < SECONDS


IMAGES = (
    "nifti",
    "nifti, gzip",
    "nifti series",
    "mgh",
    "tiff",
    "bmp",
    "dicom",
    "dicom, compressed",
    "png",
    "jpeg",
    "npz",
)
SIGNALS = ("csv", "dicom, waveforms", "wfdb, header", *(f"wfdb, signals {form}" for form in FORMS))
SOURCES = (*IMAGES, *SIGNALS)
STORED = tuple(stored())


@pytest.mark.parametrize("kind", [*SOURCES, *STORED, *BUNDLES])
def test_a_mutated_file_is_read_or_refused(kind: str, tmp_path: Path, measured: Callable[[str], None]) -> None:
    if kind in BUNDLES:
        read, seeds = bundle(kind, tmp_path)
    else:
        read, seeds = (sources(tmp_path) if kind in SOURCES else stored())[kind]
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

    @settings(max_examples=MUTATIONS, deadline=None, database=None, suppress_health_check=slow)
    @given(mutant(seeds))
    def tried(data: bytes) -> None:
        unharmed(read, data)

    tried()
    measured(f"{MUTATIONS} mutations of each kind")
