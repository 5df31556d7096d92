"""Arms of the benchmark, run as a user runs it: each trains, and is judged on its own rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.outer_curves import draw
from benchmarks.outer_steps import ARMS, OURS, PLAIN, by_network, claims, learner, made_scans, row, run
from tests.unit.benchmarks.test_benchmarks import result_of


@pytest.mark.slow
def test_outer_steps() -> None:
    found = result_of("outer_steps")
    assert set(found["results"]) == {*PLAIN, OURS}
    *plain, ours = (found["results"][name]["psnr"] for name in (*PLAIN, OURS))
    assert all(len(psnr) == 3 for psnr in (*plain, ours))
    (claim,) = found["claims"]
    assert any(abs(claim["measured"] - (ours[-1] - psnr[-1])) < 0.02 for psnr in plain)  # dB, printed to four digits


def test_the_plain_side_is_the_one_that_the_validation_split_prefers() -> None:
    results = {
        PLAIN[0]: {"psnr": [1.0, 1.0, 20.0], "validation": 25.0},
        PLAIN[1]: {"psnr": [1.0, 1.0, 22.0], "validation": 24.0},
        OURS: {"psnr": [1.0, 1.0, 30.0], "validation": 30.0},
    }
    assert [claim.measured for claim in claims(results)] == [10.0]


def test_every_arm_has_a_network_and_rates_of_its_policy() -> None:
    for arm in ARMS.values():
        model = learner(arm)
        assert model.rates.shape[0] == (5 if arm.policy == "learned" else 1)
        assert (model.rates.shape[1] > 1) == (arm.policy == "layer")


def test_scans_are_in_range_and_differ_and_a_line_tells_the_arm() -> None:
    scans = made_scans(20)
    assert 0 <= scans.min() < scans.max() <= 1
    assert scans.var(0).mean() > 0.005
    result = run(ARMS["small-.5-omega-learned"], (scans[:16], scans[16:18], scans[18:]), short=True)
    line = row("small-.5-omega-learned", result)
    assert (line["network"], line["outer steps"], line["ended"]) == ("small", 4, "whole")
    assert len(result["rates"]) == 5
    assert torch.tensor(result["rates"]).ne(0.5).any()


def test_the_picture_has_a_row_a_network_and_names_what_collapsed(tmp_path: Path) -> None:
    curve = [(1, 0.5, 20.0), (2, 1.0, 21.0)]
    results = {"small-.5": {"psnr": [1, 2, 30.0], "curve": curve}, "large-.05": {"psnr": [], "curve": curve[:1]}}
    curves = by_network(results)
    assert curves == {"small": {".5 (30.00 dB)": curve}, "large": {".05 (collapsed)": curve[:1]}}
    heights = []
    for count in (1, 2):
        draw(dict(list(curves.items())[:count]), tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            heights.append(picture.height)
    assert heights[1] == 2 * heights[0]
