"""Trains the paper-size network on DATA for as long as there is time: held-out PSNR over minutes.

The settings are those of the preset ``siren-2d``: residual layers, AdamW at rates that fall with ω, a cosine schedule,
here over the time instead of a number of steps. The network is kept in half precision, and judged as it is kept.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from benchmarks.common import wait_for
from benchmarks.fit_throughput import images
from benchmarks.gpu import ways
from benchmarks.gpu.bench import Bench, Skipped, Values
from benchmarks.gpu.sections.fit_quality import settings
from benchmarks.gpu.steps import untrained
from benchmarks.gpu.trained import OuterLoop, first_that_steps
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import describe
from medfuncta_dist.fields.params import Params
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter

LARGEST_FILE = 16e6
"""Bytes of the network in half precision."""
SHARE_FOR_THE_END = 0.1
"""Of the time, for the last validation and the file; at least ``VALIDATIONS_AT_THE_END`` times the first one's time."""
TEST_SCANS, VALIDATIONS_AT_THE_END = 4, 10
"""Times the validation's; measured before and after rounding, after a last validation."""
EVERYTHING = 10**6
"""Scans of a split: all there are."""


def run(bench: Bench) -> None:
    """Train, tell a point of the curve now and then, keep the network."""
    if bench.job.data is None:
        raise Skipped("give DATA=<MedMNIST .npz file>, such as PneumoniaMNIST at 64 x 64")
    sizes = bench.sizes
    spec = sizes.spec(residual=True)
    scans = images(bench.job.data, "train", EVERYTHING, sizes.side).to(bench.device)
    coordinates = grid((sizes.side, sizes.side), bench.device)

    def loop_of(way: ways.Way) -> OuterLoop:
        learner = ways.learner(spec, untrained(spec, bench.device), coordinates, way, bench)
        return OuterLoop(bench, learner, scans, sizes.training_rate)

    way, loop = first_that_steps(bench, ways.BEST, loop_of)
    bench.tell("how", {"way": way, "training_scans": len(scans), "batch": sizes.scans, "rate": sizes.training_rate})
    trained = Training(bench, loop, images(bench.job.data, "val", sizes.validation_scans, sizes.side).to(bench.device))
    trained.go_on()
    test = images(bench.job.data, "test", TEST_SCANS * sizes.validation_scans, sizes.side).to(bench.device)
    bench.part("kept in half precision", lambda: kept(bench, loop.params(), test))


class Training:
    """The loop over time, with its points of the curve."""

    def __init__(self, bench: Bench, loop: OuterLoop, validation: Tensor) -> None:
        self._bench, self._loop, self._validation = bench, loop, validation
        self._seconds = min(bench.left() * (1 - SHARE_FOR_THE_END), bench.sizes.longest_training)
        self._spent = self._measured = self._end = 0.0

    def go_on(self) -> None:
        """Until the time is over. Validations do not count as training."""
        self._point()
        while self._spent < self._seconds and self._bench.left() > 0:
            began = time.monotonic()
            loss = self._loop.step(cosine(self._spent / self._seconds))
            if self._loop.steps % 20 == 0 or not self._bench.cuda:  # otherwise the queue would run ahead of the clock
                wait_for(self._bench.device)
            self._spent += time.monotonic() - began
            if self._spent - self._measured >= self._bench.sizes.validate_seconds:
                self._point(float(loss.mean()))
        self._point(float(loss.mean()))

    def _point(self, loss: float | None = None) -> None:
        wait_for(self._bench.device)
        began = time.monotonic()
        found = qualities(self._bench, self._loop.params(), self._validation)
        took = time.monotonic() - began
        self._end = self._end or VALIDATIONS_AT_THE_END * took
        self._measured = self._spent
        # Neither the time of the sections before nor that of the measurement is training.
        left = self._bench.left()
        left -= max(SHARE_FOR_THE_END * left, self._end)
        self._seconds = min(self._seconds, self._spent + max(0.0, left))
        self._bench.tell(
            f"after {self._spent / 60:.2f} minutes",
            {"steps": self._loop.steps, "loss": loss, **found, "measured_in_s": took},
        )


def cosine(share: float) -> float:
    """Of the rate, when so much of the time is over."""
    return 0.5 * (1 + float(torch.cos(torch.tensor(min(1.0, share) * torch.pi))))


def qualities(bench: Bench, params: Params, scans: Tensor) -> Values:
    """Mean PSNR (dB) of each fit."""
    spec, side = bench.sizes.spec(residual=True), bench.sizes.side
    way = ways.EAGER_KERNELS[0] if bench.cuda else ways.Way("fp32")
    found: Values = {}
    for name, given in settings(bench).items():
        fitter: StepwiseFitter = ways.fitter(spec, params, grid((side, side), bench.device), given, way, bench)
        found[f"psnr, {name}"] = float(fitter.fit(scans).psnr.mean())
    return found


def kept(bench: Bench, params: Params, test: Tensor) -> Values:
    """Write the network, and measure it on test scans before and after rounding."""
    halves = {name: tensor.half() for name, tensor in params.items()}
    file = Path(bench.job.results).with_suffix(".safetensors")
    about = {"field": json.dumps(describe(bench.sizes.spec(residual=True)))}
    content = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in halves.items()}, about)
    file.write_bytes(content)
    rounded = {name: tensor.float() for name, tensor in halves.items()}
    before = {f"{name}, float32": value for name, value in qualities(bench, params, test).items()}
    after = {f"{name}, half": value for name, value in qualities(bench, rounded, test).items()}
    small = len(content) <= LARGEST_FILE
    return {
        "file": file.name,
        "mb": len(content) / 1e6,
        "within_16_mb": small,
        "test_scans": len(test),
        **before,
        **after,
    }
