"""Rate and distortion on held-out scans: our fields beside PCA, KLT, DCT and codecs of images and films.

Two data sets: slabs of a brain at 1 mm (``--volume``; by default MNI152 of nilearn's wheel), counted everywhere and
inside a mask, and chest X-rays (``--data``, PneumoniaMNIST's .npz file). PSNR is at data range 1, values clamped.
All bytes count: streams with their headers, the mask, and what a decoder has beforehand (tables, bases, networks),
divided by the number of volumes that share it. Every decoded volume comes from its bytes, the mask and what is shared.

What is done is kept in ``--keep``, line by line, and not run again. Needs the extra ``rate``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common

# isort: split
import torch

from benchmarks.common import Kept
from benchmarks.rate import curves, masks
from benchmarks.rate.chosen_coders import BASELINES, FILMS, OURS, STILLS, coders
from benchmarks.rate.coder import Coder
from benchmarks.rate.volumes import DataSet, Volume, brain, decibel, made, xrays

RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Bits per value that counts, at which curves are read."""
VERDICT_RATES = (0.05, 0.1, 0.2, 0.4)


def main() -> None:
    """Run what is asked for, and report."""
    began, options = time.perf_counter(), arguments()
    torch.set_num_threads(1)
    kept = Kept(None if options.short else options.keep)
    for name in options.sets:
        data = data_set(name, options)
        for coder in coders(name, options.short):
            if not options.only or any(word in coder.name for word in options.only):
                kept.once(f"{data.name}/{coder.name}", lambda c=coder, d=data: measured(c, d))
    report(kept.results, options.short, began)


def arguments() -> argparse.Namespace:
    """``--short`` is the one of all benchmarks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a minute instead of hours; writes no results")
    parser.add_argument("--volume", type=Path, help="a NIfTI file of a brain; by default MNI152, of nilearn")
    parser.add_argument("--data", type=Path, help="PneumoniaMNIST's .npz file")
    parser.add_argument("--sets", nargs="*", choices=("brain", "masked", "xrays"), help="which data sets; default all")
    parser.add_argument("--only", nargs="+", help="only coders whose name has one of these words")
    parser.add_argument("--keep", type=Path, help="a file of what is done, to go on with")
    options = parser.parse_args()
    if options.sets is None:
        options.sets = ["brain", "masked", *([] if options.short else ["xrays"])]
    if "xrays" in options.sets and not options.data:
        parser.error("xrays needs --data, PneumoniaMNIST's .npz file")
    return options


def data_set(name: str, options: argparse.Namespace) -> DataSet:
    """One of the data sets, or a made one."""
    if options.short:
        return made(masked=name == "masked")
    if name == "xrays":
        return xrays(options.data)
    from benchmarks.preset_scans import mni152

    return brain(options.volume or mni152(), masked=name == "masked")


def measured(coder: Coder, data: DataSet) -> dict[str, Any]:
    """Bits per value that counts and mean dB over held-out volumes, at each quality."""
    began = time.process_time()
    coder.fit(data.training)
    fitted, points = time.process_time() - began, []
    for quality in coder.qualities:
        sizes, scores = zip(*(coded(coder, data, volume, quality) for volume in data.held_out), strict=True)
        shared = coder.shared_bytes / data.amortised_over * len(sizes)
        points.append([8 * (sum(sizes) + shared) / data.counted, sum(scores) / len(scores), quality])
    coding = (time.process_time() - began - fitted) / len(coder.qualities) / len(data.held_out)
    share = 8 * coder.shared_bytes / data.amortised_over * len(data.held_out) / data.counted
    return {
        "points": points,
        "shared_bytes": coder.shared_bytes,
        "shared_bits_per_value": share,
        "fit_cpu_s": fitted,
        "coding_cpu_s": coding,
    }


def coded(coder: Coder, data: DataSet, volume: Volume, quality: float) -> tuple[int, float]:
    """All bytes of a volume, and what comes back from them, in dB."""
    stored = b"" if volume.mask is None else masks.stored(volume.mask)
    mask = None if volume.mask is None else masks.restored(stored, volume.values.shape)
    stream = coder.encode(volume.values, mask, quality)
    return len(stored) + len(stream), decibel(data, volume, coder.decode(stream, mask))


def report(results: Mapping[str, dict[str, Any]], short: bool, began: float) -> None:
    """A row per data set and coder, claims, the picture."""
    sets: dict[str, dict[str, Any]] = {}
    for key, result in sorted(results.items(), key=lambda item: _order(item[0])):
        name, _, coder = key.partition("/")
        sets.setdefault(name, {})[coder] = result
    rows = [row(name, coder, result) for name, found in sets.items() for coder, result in found.items()]
    claims = [claim for name, found in sets.items() for claim in claims_of(name, found)]
    if not results:
        return
    verdicts = [words for name, found in sets.items() for words in (verdict(name, found), *missing(name, found, short))]
    common.report("rate_distortion", short, began, results, claims, rows, [*verdicts, *NOTES, libraries()])
    if sets and not short:
        curves.draw(sets, common.RESULTS / f"rate_distortion-{common.machine_name()}.png")


def _order(key: str) -> tuple[str, int]:
    name, _, coder = key.partition("/")
    return name, [*curves.STYLES].index(curves.style_of(coder))


def row(name: str, coder: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table: dB at each rate; a dash where the curve does not reach."""
    read = {f"dB at {rate:g}": shown(curves.at(result["points"], rate)) for rate in RATES}
    shared = {
        "shared KB": round(result["shared_bytes"] / 1000, 1),
        "its bits": f"{result['shared_bits_per_value']:.4f}",
    }
    seconds = {"fit CPU s": round(result["fit_cpu_s"]), "code CPU s": f"{result['coding_cpu_s']:.2g}"}
    return {"data": name, "coder": coder, **read, **shared, **seconds}


def shown(decibels: float | None) -> str:
    """Two digits."""
    return "–" if decibels is None else f"{decibels:.2f}"


def best(found: Mapping[str, Any], names: Sequence[str], rate: float) -> float | None:
    """dB of the best coder whose name begins so, at a rate that it reaches."""
    reached = [curves.at(found[c]["points"], rate) for c in found if c.startswith(tuple(names))]
    return max((value for value in reached if value is not None), default=None)


def claims_of(name: str, found: Mapping[str, Any]) -> list[common.Claim]:
    """The best of ours over each of the others, at the rates that both reach."""
    claims = []
    for rate in VERDICT_RATES:
        ours = best(found, OURS, rate)
        for what, names in (("the best of PCA, KLT and DCT", BASELINES), ("HEVC", FILMS)):
            other = best(found, names, rate)
            if ours is not None and other is not None:
                text = f"{name}, {rate:g} bit: the best of ours over {what}, dB"
                claims.append(common.Claim(text, ours - other, 0.0, at_least=True))
    return claims


def verdict(name: str, found: Mapping[str, Any]) -> str:
    """In one sentence, what came out."""
    said = []
    for rate in VERDICT_RATES:
        words = (("ours", OURS), ("PCA, KLT or DCT", BASELINES), ("HEVC", FILMS), ("still codecs", STILLS))
        each = [f"{word} {shown(best(found, names, rate))}" for word, names in words]
        said.append(f"at {rate:g} bit {', '.join(each)} dB")
    return f"The best of each sort, {name}: {'; '.join(said)}."


def missing(name: str, found: Mapping[str, Any], short: bool) -> list[str]:
    """Which coders have not been measured, where some have not."""
    wanted = [coder.name for coder in coders("brain" if "X-rays" not in name else "xrays", short)]
    left = [coder for coder in wanted if coder not in found]
    return [f"Not measured, {name}: {'; '.join(left)}."] if left else []


def libraries() -> str:
    """Which versions of the coders were installed, in words."""
    found = common.versions(("constriction", "imagecodecs", "av"))
    words = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"Measured with {words}; HEVC is libx265, preset slow, tuned for PSNR, 8 bits."


NOTES = (
    "dB at so many bits per value that counts, read from straight lines between the measured points; in a mask, values "
    "of the mask count. The mean over three slabs of 16 coronal slices, or over 624 X-rays.",
    "All bytes count: headers, the mask (in blocks of 4 voxels, about 300 bytes a slab, the same for all; the exact "
    "mask, in which errors are counted, would take 3 to 5 KB), and a share of what a decoder has beforehand "
    "(`shared KB`, `its bits` per value): that of 14 000 slabs, a thousand brains, or of 100 000 X-rays.",
    "PCA, KLT, DCT and our latents in steps have one entropy coder: one step, rounding that weighs bits, 8 classes of "
    "blocks, integer tables per class and coefficient from training scans, ANS by constriction.",
    "`neighbours`: blocks are coded one after the other; the 32 coefficients that vary most are predicted from "
    "those of the blocks before it along each axis, and so is the block's class. No block can be decoded alone then. "
    "Tried with KLT 8³ inside the mask, and no better at equal bytes (within 0.05 dB): 16 and 24 classes instead of 8, "
    "and 96 predicted coefficients instead of 32. A global latent as a prior has not been tried.",
    "Outside the mask, all coders get the same smooth fill; blocks without a value that counts are not stored. "
    "Still codecs get the slices below each other in one image, films get them as frames; 156 X-rays are one volume. "
    "HEVC is not made for frames of 28²: each costs 15 bytes at least.",
    "SIREN, one step: latents in the root of the mean Gauss-Newton matrix. Networks: seed 0, one training each, of 60 "
    "to 300 outer steps (`benchmarks/rate/chosen_coders.py`): longer ones may be better. SIREN 16³ had 150 outer "
    "steps, and 4 steps on a quarter of the points to fit a block, for want of time: it is far from what a SIREN can "
    "reach. x265's streams differ by up "
    "to 2 % from run to run.",
    "Measured in several calls with `--data pneumoniamnist.npz --keep FILE`, which go on where the last one ended, at "
    "idle priority on a busy machine: CPU seconds are those of the process.",
    "The brain is an average of 152 people, smoother than a scan of one.",
)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
