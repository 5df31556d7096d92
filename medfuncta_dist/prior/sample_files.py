"""The command ``sample``: drawn latents decoded into files that say in every format that they are no scan.

A sample's key is ``synthetic-<prior8>-<seed>-<number>``; a scan's key is 64 hexadecimal digits and holds no dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError, StageOrderError
from medfuncta_dist.evaluation.decode import PICTURED, Decoded, reconstruct, save
from medfuncta_dist.evaluation.decoded_grid import resampled_spacing
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.network.committed_network import published_network
from medfuncta_dist.network.network_loader import load_network
from medfuncta_dist.prior.drawing import GROUP, draw, labels_of
from medfuncta_dist.prior.judgement import why_refused
from medfuncta_dist.prior.noise_schedule import require_library
from medfuncta_dist.prior.prior_files import Prior, committed_prior, load_prior, prior_folder
from medfuncta_dist.scans.scan import MAX_VALUES, Window
from medfuncta_dist.storage.digest import canonical_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.telemetry.progress_bar import ProgressBar
from medfuncta_dist.telemetry.progress_report import ProgressReport

FORMAT_VERSION = 1
LIST_FILE = "samples.json"
MARK = "SYNTHETIC, not a scan of a person"
FORMATS = {1: ("csv", "npy"), 2: ("png", "nii.gz", "nii", "npy"), 3: ("nii.gz", "nii", "npy")}
"""By the number of axes; the first is taken where none is named."""


@dataclass(frozen=True)
class SampleRequest:
    """What the user asked for."""

    count: int
    out: Path
    label: int | None = None
    shape: tuple[int, ...] | None = None
    seed: int = 0
    format: str | None = None


def write_samples(run: RunFile, asked: SampleRequest) -> dict[str, Any]:
    """Draw, decode and write samples; the figures of the command.

    Raises:
        StageOrderError: the run has no prior, or one of another network.
        RunFileError: too many samples are copies of training scans, no training scan has the label, or the shape or the
            format does not suit the scans.
    """
    store = ObjectStore(run.storage)
    prior, network = _opened(run, store)
    require_library()
    _require_no_copies(run, prior)
    packed = tuple(run.data.shape)
    shape, suffix = _shape(asked, packed, network.spec.channels), _suffix(asked, len(packed), network.spec.channels)
    label_class = _class_of(asked.label, prior)
    _require_empty(asked.out)
    entries: list[dict[str, Any]] = []
    with ProgressBar("sample") as bar:
        for first in range(0, asked.count, GROUP):
            drawn = draw(prior, min(GROUP, asked.count - first), asked.seed, label_class, first)
            latents = prior.coordinates.latents(drawn.whitened).numpy()
            values = reconstruct(network, latents, shape)
            for number, (label, one) in enumerate(zip(labels_of(prior, drawn), values, strict=True), first):
                key = sample_key(prior, asked.seed, number)
                save(_decoded(prior, key, one, packed), asked.out / f"{key}.{suffix}")
                entries.append({"key": key, "label": label, "file": f"{key}.{suffix}"})
            bar.show(ProgressReport("sample", len(entries), asked.count))
    listed = {
        "format_version": FORMAT_VERSION,
        "kind": "samples",
        "synthetic": True,
        "mark": MARK,
        "prior": prior.digest,
        "network": prior.network_digest,
        "seed": asked.seed,
        "shape": list(shape),
        "copied": prior.judgement["copied"],
        "samples": entries,
    }
    (asked.out / LIST_FILE).write_bytes(canonical_json(listed))
    points = "x".join(map(str, shape))
    said = f"sample: {asked.count} synthetic scans of {points} points in {asked.out}, listed in {LIST_FILE}"
    return {**listed, "folder": str(asked.out.resolve()), "said": [said]}


def _opened(run: RunFile, store: ObjectStore) -> tuple[Prior, SharedNetwork]:
    record, where = committed_prior(store, run.name), store.uri(prior_folder(run.name))
    if record is None:
        raise StageOrderError("the run has no prior yet", where=where, do="run train-prior first")
    ref = published_network(store, run.name)
    if record.network_digest != ref.digest:
        what = "the run's prior was trained on latents of another network than the run has now"
        raise StageOrderError(what, where=where, do="run fit, then train-prior again")
    return load_prior(store, run.name, record), load_network(store, ref)


def _require_no_copies(run: RunFile, prior: Prior) -> None:
    limit = run.prior.most_copied
    if why := why_refused(prior.judgement, limit):
        raise RunFileError(
            why,
            where=f"prior.most_copied, which allows {limit:.1%}",
            do="train a smaller prior, or for fewer steps (prior.width, prior.blocks, prior.steps), or on more scans, "
            "with more held out",
        )


def _class_of(label: int | None, prior: Prior) -> int | None:
    if label is None:
        return None
    if label not in prior.classes.labels:
        known = ", ".join(map(str, prior.classes.labels)) or "none: they have no labels"
        raise RunFileError(f"no training scan has the label {label}", where="--label", do=f"choose from {known}")
    return prior.classes.labels.index(label)


def _shape(asked: SampleRequest, packed: tuple[int, ...], channels: int) -> tuple[int, ...]:
    shape = asked.shape or packed
    if len(shape) != len(packed) or min(shape) < 2 or math.prod(shape) * channels > MAX_VALUES:
        do = f"give {len(packed)} numbers of at least 2, with at most {MAX_VALUES} values in all"
        raise RunFileError(f"{list(shape)} is no shape for scans of {list(packed)}", where="--shape", do=do)
    return shape


def _suffix(asked: SampleRequest, axes: int, channels: int) -> str:
    allowed = [one for one in FORMATS[axes] if one != "png" or channels in PICTURED]
    suffix = (asked.format or allowed[0]).lower().removeprefix(".")
    if suffix not in allowed:
        what = f"scans of {axes} axes and {channels} channels are not written as {suffix}"
        raise RunFileError(what, where="--format", do=f"use {', '.join(allowed)}")
    return suffix


def _require_empty(out: Path) -> None:
    """A folder of samples is of one call: files of another would be taken for its own."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = next(out.iterdir(), None) is not None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunFileError(f"the folder cannot be used: {reason}", where="--out", do="name another one") from error
    if occupied:
        raise RunFileError("the folder is not empty", where="--out", do="name a new one, or remove what is in it")


def sample_key(prior: Prior, seed: int, number: int) -> str:
    """No scan's key: those have no letters beyond f, and no dashes."""
    return f"synthetic-{prior.digest[:8]}-{seed}-{number:06d}"


def _decoded(prior: Prior, key: str, values: np.ndarray, packed: Sequence[int]) -> Decoded:
    looks = prior.appearance
    spacing = resampled_spacing(looks.spacing, packed, values.shape[1:])
    return Decoded(
        key=key,
        values=values,
        window=Window(*looks.window),
        spacing=spacing,
        affine=None,
        psnr=math.nan,
        below_min=False,
        upright=looks.upright,
        synthetic=f"{MARK}; medfuncta-dist, prior {prior.digest[:12]}",
    )
