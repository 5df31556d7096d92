"""The benchmark of priors: its short run trains, judges and tells; its parts are what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from benchmarks import prior
from benchmarks.prior import PRIORS, copies, judged, latents_of, measured, scored, some_of, table
from medfuncta_dist.config.sections.prior_section import Prior as Settings
from medfuncta_dist.prior.sample_files import MARK

SHORT = argparse.Namespace(short=True, data=None)


def test_every_prior_is_trained_and_judged(tmp_path: Path) -> None:
    latents = latents_of(SHORT)
    tiny = Settings(steps=4, width=8)
    found = {name: measured(some_of(latents, scans), tiny, None) for name, (_, scans) in PRIORS.items()}
    found["copies"] = {"judgement": judged(copies(latents), latents)}
    assert found["copies"]["judgement"]["copied"] == 1.0
    rows = {row["prior"]: row for row in table(found)}
    assert set(rows) == {*PRIORS, "copies"}
    assert [step for step, _ in found["default"]["held_out_losses"]] == [1, 2, 3, 4]
    assert all(0 <= score <= 1 for score in scored(found["default"]["judgement"]))
    assert len(prior.claims(found)) == 4


def test_few_scans_are_evenly_chosen() -> None:
    latents = latents_of(SHORT)
    few = some_of(latents, 4)
    assert torch.equal(few.train.whitened, latents.train.whitened[:: len(latents.train) // 4][:4])
    assert some_of(latents, None) is latents


def test_the_picture_says_that_it_shows_no_scan(tmp_path: Path) -> None:
    measured(latents_of(SHORT), Settings(steps=1, width=8), tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.text["Description"] == MARK  # type: ignore[attr-defined]
        assert picture.size[0] == picture.size[1]
