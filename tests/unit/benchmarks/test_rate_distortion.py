"""The benchmark of rate and distortion: bytes become volumes without side channels, and its page is true of them."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

pytest.importorskip("constriction", reason="the extra rate is not installed")

from benchmarks import rate_distortion
from benchmarks.rate import curves, entropy, masks
from benchmarks.rate.blocks import cut, joined, needed
from benchmarks.rate.chosen_coders import PCA_ROWS, coders, linear_coders, our_coders
from benchmarks.rate.coder import Coder
from benchmarks.rate.field_transform import whitened
from benchmarks.rate.neighbours import NeighbourCoder, before_each, context
from benchmarks.rate.symbol_tables import LARGEST, tables
from benchmarks.rate.transform_coder import TransformCoder
from benchmarks.rate.transforms import Dct, Klt
from benchmarks.rate.varints import read_varints, varints
from benchmarks.rate.volumes import GAP, HELD_OUT, SLICES, DataSet, Volume, decibel, made, training_slabs, xrays

BASIS_WAYS = ("one step", "neighbours", "int8 + zlib")
NOISE = np.random.default_rng(0)


def goes_round(coder: Coder, data: DataSet, within: float = 1e-9) -> None:
    """Worse is smaller, and what decodes is a copy of the coder that never saw the volume.

    ``within``: how much two streams of one volume may differ, relative to one.
    """
    coder.fit(data.training)
    decoder, volume = copy.deepcopy(coder), data.held_out[0]
    mask = None if volume.mask is None else masks.restored(masks.stored(volume.mask), volume.values.shape)
    ends = [coder.qualities[0], coder.qualities[-1]]
    streams = [coder.encode(volume.values, mask, quality) for quality in ends]
    scores = [decibel(data, volume, decoder.decode(stream, mask)) for stream in streams]
    assert decoder.decode(streams[0], mask).shape == volume.values.shape
    if len(set(ends)) == 2:
        assert len(streams[0]) < len(streams[1])
        assert scores[0] < scores[1]
    for quality, stream, score in zip(ends, streams, scores, strict=True):
        found = rate_distortion.coded(coder, data, volume, quality)
        stored = 0 if volume.mask is None else len(masks.stored(volume.mask))
        assert found == pytest.approx((stored + len(stream), score), rel=within)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coder", [*linear_coders(False), *our_coders(False, short=True)], ids=lambda c: c.name)
def test_transforms_and_our_fields_go_round(coder: Coder, masked: bool) -> None:
    goes_round(copy.deepcopy(coder), made(masked))


@pytest.mark.parametrize("name", ["JPEG 2000", "HTJ2K", "JPEG-LS", "JPEG XL"])
def test_codecs_of_still_images_go_round(name: str) -> None:
    pytest.importorskip("imagecodecs", reason="the extra rate is not installed")
    (coder,) = (coder for coder in coders("brain", short=True) if coder.name == name)
    goes_round(coder, made(True))


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("inter", [False, True])
def test_hevc_goes_round(inter: bool, bits: int) -> None:
    pytest.importorskip("av", reason="the extra rate is not installed")
    from benchmarks.rate.hevc import Hevc

    # x265 does not make the same stream twice, with frames that are predicted from others.
    goes_round(Hevc(inter, bits), made(False, side=32), within=0.05)


def test_frames_that_are_predicted_cost_less() -> None:
    pytest.importorskip("av", reason="the extra rate is not installed")
    from benchmarks.rate.hevc import Hevc

    still = np.repeat(made(False, side=32).held_out[0].values[15:16], 16, axis=0)
    alone, predicted = (len(Hevc(inter).encode(still, None, 30)) for inter in (False, True))
    assert predicted < alone / 2


def test_a_stream_says_once_what_it_is() -> None:
    pytest.importorskip("av", reason="the extra rate is not installed")
    from benchmarks.rate.hevc import PARAMETER_SETS, START, Hevc

    stream = Hevc(inter=False).encode(made(False, side=32).held_out[0].values, None, 40)
    kinds = [unit[0] >> 1 & 63 for unit in stream.split(START)[1:]]
    assert [kind for kind in kinds if kind in PARAMETER_SETS] == list(PARAMETER_SETS)
    assert len(kinds) == 3 + 32


def test_xrays_are_scans_of_a_volume(tmp_path: Path) -> None:
    smooth = np.cumsum(NOISE.normal(size=(400, 28, 28)), axis=2)
    images = np.clip(128 + 8 * smooth, 0, 255).astype(np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, test_images=images[:40])
    data = xrays(tmp_path / "x.npz")
    assert data.slices_are_scans
    assert data.counted == 40 * 28 * 28
    (pca, *_) = linear_coders(scans=True)
    goes_round(pca, data)
    assert pca.shared_bytes > 2 * PCA_ROWS * 28 * 28
    volume = data.held_out[0]
    half = volume.values.copy()
    half[:20] = 1 - half[:20]
    each = [-10 * np.log10(np.square(a - b).mean()) for a, b in zip(half[:20], volume.values[:20], strict=True)]
    worse = volume.values.copy()
    worse[:20], worse[20:] = half[:20], half[:20]
    assert decibel(data, Volume(np.concatenate([volume.values[:20]] * 2)), worse) == pytest.approx(
        np.mean(each), rel=1e-4
    )


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9), st.sampled_from([0.3, 3.0, 300.0, 9000.0]))
def test_symbols_come_back_whatever_they_are(seed: int, blocks: int, count: int, width: float) -> None:
    noise = np.random.default_rng(seed)
    model = entropy.learned(noise.laplace(scale=width, size=(60, count)), classes=3)
    scaled = noise.laplace(scale=width * noise.choice([0.1, 1, 10]), size=(blocks, count))
    _, symbols = entropy.rounded(scaled[:, model.kept], model.table, model.frequency)
    found = entropy.decoded(entropy.encoded(scaled, model), blocks, model)
    assert np.array_equal(found[:, model.kept], symbols)
    assert not found[:, np.setdiff1d(np.arange(count), model.kept)].any()


def test_streams_are_nearly_as_short_as_the_tables_say() -> None:
    scaled = NOISE.normal(size=(500, 12)) * np.geomspace(8, 0.4, 12)
    model = entropy.learned(scaled)
    bits = 8 * len(entropy.encoded(scaled, model))
    counts = [np.unique(column, return_counts=True)[1] / 500 for column in np.rint(scaled).T]
    entropies = 500 * sum(float(-(share * np.log2(share)).sum()) for share in counts)
    assert 0.6 * entropies < bits < 1.1 * entropies


def test_neighbours_shorten_smooth_volumes() -> None:
    volumes = [
        Volume(gaussian_filter(NOISE.normal(size=(48, 48, 48)), 5).astype(np.float32) * 4 + 0.5) for _ in range(5)
    ]
    plain, told = TransformCoder("", Dct((8, 8, 8)), [0.2]), NeighbourCoder("", Dct((8, 8, 8)), [0.2])
    for coder in (plain, told):
        coder.fit(volumes[:4])
    streams = [coder.encode(volumes[4].values, None, 0.2) for coder in (plain, told)]
    errors = [
        np.square(coder.decode(stream, None) - volumes[4].values).mean()
        for coder, stream in zip((plain, told), streams, strict=True)
    ]
    assert len(streams[1]) < 0.9 * len(streams[0])
    assert errors[1] < 1.3 * errors[0]


def test_neighbours_are_the_coded_blocks_before_one() -> None:
    kept = np.ones((2, 2, 3), bool)
    kept[0, 1, 1] = False
    before = before_each(kept.ravel(), kept.shape)
    assert before[0].tolist() == [-1, -1, -1]
    assert before[2].tolist() == [-1, -1, 1]
    assert before[4].tolist() == [-1, 2, -1], "the block before it along the last axis is not coded"
    assert before[-1].tolist() == [4, 7, 9]
    chosen = np.asarray([7, 0, 3, *[0] * 8])
    assert context(chosen, np.asarray([[-1, -1, -1], [0, -1, -1], [0, 1, -1], [0, 2, 1]])).tolist() == [0, 8, 5, 4]


def test_two_sorts_of_blocks_are_told_apart() -> None:
    quiet, loud = NOISE.laplace(scale=0.2, size=(300, 20)), NOISE.laplace(scale=6, size=(300, 20))
    model = entropy.learned(np.concatenate([quiet, loud]), classes=2)
    (of_quiet, of_loud) = (
        entropy.rounded(blocks[:, model.kept], model.table, model.frequency)[0] for blocks in (quiet, loud)
    )
    assert len(set(of_quiet)) == len(set(of_loud)) == 1
    assert of_quiet[0] != of_loud[0]


def test_rounding_gives_up_error_for_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled = NOISE.laplace(scale=0.6, size=(800, 30))
    model = entropy.learned(scaled)
    weighed = entropy.encoded(scaled, model)
    monkeypatch.setattr(entropy, "PRICE", 0.0)
    nearest = entropy.encoded(scaled, model)
    errors = [np.square(scaled - entropy.decoded(stream, 800, model)).sum() for stream in (weighed, nearest)]
    assert len(weighed) < 0.95 * len(nearest)
    assert errors[0] > errors[1]


def test_tables_are_integers_and_every_symbol_has_some() -> None:
    assert all(table.frequencies.dtype == np.int64 and table.frequencies.min() >= 1 for table in tables())
    assert all(len(table.frequencies) == 2 * table.last + 1 <= 2 * LARGEST + 1 for table in tables())
    assert len(tables()) < 256


@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_small_numbers_come_back(numbers: list[int]) -> None:
    data = varints(numbers)
    assert read_varints(data, 0, len(numbers)) == (numbers, len(data))


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_blocks_are_joined_as_they_were_cut(shape: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    blocks = cut(values, block)
    assert np.array_equal(joined(blocks, shape, block), values)
    last = values == values.max()
    assert np.flatnonzero(needed(last, shape, block)).tolist() == [len(blocks) - 1]


@pytest.mark.parametrize("transform", [Dct((4, 4, 4)), Klt((4, 4, 4))], ids=lambda t: type(t).__name__)
def test_errors_of_coefficients_are_those_of_blocks(transform: Dct | Klt) -> None:
    blocks = NOISE.normal(size=(200, 64)).astype(np.float32)
    transform.fit(blocks)
    coefficients = transform.forward(blocks)
    assert np.allclose(transform.inverse(coefficients), blocks, atol=5e-3)
    moved = coefficients + NOISE.normal(size=coefficients.shape).astype(np.float32)
    error = np.square(transform.inverse(moved) - blocks).sum()
    assert error == pytest.approx(np.square(moved - coefficients).sum(), rel=1e-2)


def test_latents_are_brought_to_coordinates_of_equal_error() -> None:
    import torch

    jacobian = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latents = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    centre, to, back = whitened(latents, jacobian.T @ jacobian)
    changed = (latents - centre) @ to
    assert torch.allclose(centre + changed @ back, latents, atol=1e-4)
    images = (latents - centre).double() @ jacobian.T
    assert torch.allclose(changed.double().square().sum(1), images.square().sum(1), rtol=1e-4)
    spread = changed.T @ changed
    assert torch.allclose(spread, torch.diag(spread.diagonal()), atol=1e-2)
    assert all(a >= b for a, b in pairwise(spread.diagonal().tolist()))


def test_a_mask_is_stored_in_blocks_that_cover_it() -> None:
    data = made(True)
    (volume,) = data.held_out
    assert volume.mask is not None
    stored = masks.stored(volume.mask)
    found = masks.restored(stored, volume.values.shape)
    assert len(stored) < 80
    assert found[volume.mask].all()
    assert volume.mask.sum() < found.sum() < 3 * volume.mask.sum()
    plain = made(False).held_out[0].values
    assert np.array_equal(masks.smooth_fill(plain, volume.mask)[volume.mask], plain[volume.mask])


def test_training_slabs_keep_away_from_held_out_ones() -> None:
    slices = {n for part in training_slabs(233) for n in range(part.start, part.stop)}
    held = {n for first in HELD_OUT for n in range(first - GAP, first + SLICES + GAP)}
    assert slices
    assert not slices & held
    assert max(slices) < 233


def test_curves_are_read_between_their_points() -> None:
    points = [[0.4, 34.0, 1], [0.1, 30.0, 2], [0.2, 29.0, 3]]
    assert curves.envelope(points) == [(0.1, 30.0), (0.4, 34.0)]
    assert curves.at(points, 0.2) == pytest.approx(32.0)
    assert curves.at(points, 0.05) is None


def test_every_coder_has_a_line_and_a_verdict_names_the_best_of_each_sort() -> None:
    names = [coder.name for data in ("brain", "xrays") for coder in coders(data)]
    assert {curves.style_of(name) for name in names} >= {"basis", "SIREN", "PCA", "KLT", "DCT"}
    each = {name: {"points": [[0.01, 20.0 + rank, 1], [1.0, 30.0 + rank, 2]]} for rank, name in enumerate(names)}
    found = {"basis": each[names[0]], "DCT 16³": each[names[2]], "DCT 28²": each[names[1]]}
    (claim, *_) = rate_distortion.claims_of("x", found)
    assert claim.measured == pytest.approx(-2.0)
    (left,) = rate_distortion.missing("x", found, short=False)
    assert left.startswith("Not measured, x: KLT 8³; KLT 8³, neighbours; DCT 16³, neighbours; ")
    assert "at 0.1 bit ours 25.00, PCA, KLT or DCT 27.00, HEVC –, still codecs – dB" in rate_distortion.verdict(
        "x", found
    )


def test_a_short_run_tells_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command: list[str] = ["rate_distortion", "--short", "--sets", "masked", "--only", "DCT", "basis"]
    monkeypatch.setattr(sys, "argv", command)
    rate_distortion.main()
    found = json.loads(capsys.readouterr().out)
    assert found["short"]
    assert set(found["results"]) == {
        f"made, inside a mask/{name}"
        for name in ("DCT 16³", "DCT 16³, neighbours", *(f"basis 8³, {way}" for way in BASIS_WAYS))
    }
    row = rate_distortion.row("made", "DCT 16³", found["results"]["made, inside a mask/DCT 16³"])
    read: Callable[[str], bool] = lambda cell: cell == "–" or float(cell) > 10  # noqa: E731
    assert all(read(row[f"dB at {rate:g}"]) for rate in rate_distortion.RATES)
    assert all("the best of ours over the best of PCA, KLT and DCT" in claim["what"] for claim in found["claims"])
    assert found["notes"][0].startswith("The best of each sort, made, inside a mask: at 0.05 bit")
    sets = {"made": {key.partition("/")[2]: result for key, result in found["results"].items()}}
    curves.draw(sets, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
