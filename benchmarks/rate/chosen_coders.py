"""Which coders run on which data set, and with which settings."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from benchmarks.rate.coder import Coder
from benchmarks.rate.field_transform import FieldTransform
from benchmarks.rate.neighbours import NeighbourCoder
from benchmarks.rate.stored_latents import Int8Zlib, StoredLatents
from benchmarks.rate.transform_coder import STEPS, TransformCoder
from benchmarks.rate.transforms import Dct, Klt

OURS, BASELINES = ("basis", "SIREN"), ("PCA", "KLT", "DCT")
FILMS, STILLS = ("HEVC",), ("JPEG", "HTJ2K")
"""What the names of coders begin with."""
STORAGES = {"int8 + zlib": Int8Zlib}
"""The product's storage types."""
PCA_ROWS = 192
XRAY_STEPS = (1.6, 1.1, 0.8, 0.55, 0.4, 0.28, 0.2, 0.14, 0.1)
"""Of quantisation, for whole X-rays."""
Sections = dict[str, dict[str, Any]]
BASIS_16: Sections = {
    "field": {"kind": "basis", "latent": 512, "features": 1024, "hidden": 128, "omega_first": 10, "omega_last": 10},
    "train": {"rate": 1e-3, "steps": 60, "batch": 32},
}
BASIS_8: Sections = {
    "field": {"kind": "basis", "latent": 128, "features": 256, "hidden": 128, "omega_first": 10, "omega_last": 10},
    "train": {"rate": 1e-3, "steps": 100, "batch": 64},
}
SIREN_16: Sections = {
    "field": {"layers": 5, "hidden": 96, "latent": 192, "omega_first": 20, "omega_last": 80, "residual": True},
    "meta": {"inner_steps": 5, "inner_rate": 0.3, "selection_ratio": 0.1},
    "train": {"rate": 1e-3, "steps": 150, "batch": 8, "rate_by_omega": True},
    "fit": {"method": "gauss-newton", "steps": 4, "selection_ratio": 0.25},
}
BASIS_XRAY: Sections = {
    "field": {"kind": "basis", "latent": 128, "features": 512, "hidden": 256, "omega_first": 20, "omega_last": 20},
    "train": {"rate": 1e-3, "steps": 200, "batch": 64},
}
SIREN_XRAY: Sections = {
    "field": {"layers": 5, "hidden": 64, "latent": 128, "omega_first": 20, "omega_last": 80, "residual": False},
    "meta": {"inner_steps": 5, "inner_rate": 0.3, "selection_ratio": 0.5},
    "train": {"rate": 1e-3, "steps": 300, "batch": 16, "rate_by_omega": True},
    "fit": {"method": "gauss-newton", "steps": 6},
}
SHORT: Sections = {
    "field": {"layers": 3, "hidden": 16, "latent": 16, "features": 32},
    "train": {"steps": 3, "batch": 4, "warmup_steps": 1},
}
"""What a short run changes."""


def coders(data: str, short: bool = False) -> Iterator[Coder]:
    """All that are installed, ours last: they take longest."""
    scans = data == "xrays"
    yield from linear_coders(scans)
    if find_spec("imagecodecs"):
        from benchmarks.rate.still_codecs import still_codecs

        yield from still_codecs()
    if find_spec("av"):
        from benchmarks.rate.hevc import Hevc

        yield from (Hevc(inter) for inter in (False, True))
    yield from our_coders(scans, short)


def linear_coders(scans: bool) -> Iterator[Coder]:
    """With the entropy coder that ours have, too."""
    if scans:
        yield TransformCoder("PCA", Klt((1, 28, 28), PCA_ROWS), XRAY_STEPS)
        yield TransformCoder("DCT 28²", Dct((1, 28, 28)), XRAY_STEPS)
        yield TransformCoder("DCT 14²", Dct((1, 14, 14)), XRAY_STEPS)
    else:
        yield TransformCoder("KLT 8³", Klt((8, 8, 8)))
        yield NeighbourCoder("KLT 8³, neighbours", Klt((8, 8, 8)))
        yield TransformCoder("DCT 16³", Dct((16, 16, 16)))
        yield NeighbourCoder("DCT 16³, neighbours", Dct((16, 16, 16)))


def our_coders(scans: bool, short: bool) -> Iterator[Coder]:
    """Each network with one step and the entropy coder, and with the product's storage types."""
    if scans:
        yield from _field("basis 28²", FieldTransform((1, 28, 28), BASIS_XRAY), (32, 64, 128))
        yield from _field("SIREN 28²", FieldTransform((1, 28, 28), SIREN_XRAY, fitted=600), (128,))
        return
    yield from _field("basis 8³", FieldTransform((8, 8, 8), _sized(BASIS_8, short)), (8,) if short else (4, 8, 16, 32))
    if not short:
        yield from _field("basis 16³", FieldTransform((16, 16, 16), BASIS_16), (16, 32, 64, 128, 256, 512))
    sections = _sized(SIREN_16, short)
    yield from _field("SIREN 16³", FieldTransform((16, 16, 16), sections, fitted=150), (sections["field"]["latent"],))


def _field(name: str, transform: FieldTransform, keep: tuple[int, ...]) -> Iterator[Coder]:
    steps = XRAY_STEPS if transform.block[0] == 1 else STEPS
    yield TransformCoder(f"{name}, one step", transform, steps, transform.fitted)
    if name.startswith("basis") and transform.block[0] > 1:
        yield NeighbourCoder(f"{name}, neighbours", transform, steps)
    for storage, kind in STORAGES.items():
        yield StoredLatents(f"{name}, {storage}", transform, kind, keep)


def _sized(sections: Sections, short: bool) -> Sections:
    if not short:
        return sections
    smaller = {key: value for key, value in SHORT["field"].items() if key in sections["field"]}
    return {**sections, "field": sections["field"] | smaller, "train": sections["train"] | SHORT["train"]}
