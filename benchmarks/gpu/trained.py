"""A network of the paper's size with a little training behind it: what gradients and fits are compared on.

The first section that needs it trains it; the others of the same call read it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from benchmarks.fit_throughput import images
from benchmarks.gpu import ways
from benchmarks.gpu.bench import Bench, ran_out_of_memory
from benchmarks.gpu.result_lines import last_lines_of
from benchmarks.gpu.steps import Batch, drawn_contexts, meta_step, untrained
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks

FILE = "trained.safetensors"
TRAINING_SCANS = 256
SHARE_OF_TIME = 0.4
"""Of what the section has left."""


def network(bench: Bench) -> Params:
    """θ on the device, and a result that tells how it was trained."""
    file = Path(bench.job.scratch) / FILE
    if not file.exists():
        _train(bench, file)
    return {name: tensor.to(bench.device) for name, tensor in safetensors.torch.load(file.read_bytes()).items()}


class OuterLoop:
    """Outer steps on shuffled scans: AdamW at rates that fall with each layer's ω, gradients clipped at 1."""

    def __init__(
        self,
        bench: Bench,
        learner: MetaLearner,
        scans: Tensor,
        rate: float,
        batch: int | None = None,
        ratio: float | None = None,
    ) -> None:
        self._bench, self._learner, self._scans, self._rate = bench, learner, scans, rate
        self._size, self._ratio = batch or bench.sizes.scans, ratio or bench.sizes.ratio
        spec = learner.spec
        groups: dict[float, dict[str, Any]] = {}
        for name, parameter in learner.params().items():
            share = spec.omega(1) / spec.omega_of(name)
            groups.setdefault(share, {"params": [], "share": share})["params"].append(parameter)
        self._optimiser = torch.optim.AdamW(list(groups.values()), lr=rate, weight_decay=0, fused=bench.cuda)
        self._order, self._waiting = torch.Generator().manual_seed(0), torch.zeros(0, dtype=torch.int64)
        self.steps = 0

    def step(self, of_rate: float = 1.0) -> Tensor:
        """The losses of the next batch; θ takes a step at this share of the rate."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * group["share"] * of_rate
        self._learner.zero_grad(set_to_none=True)
        losses = meta_step(self._learner, self._batch())
        torch.nn.utils.clip_grad_norm_(self._learner.parameters(), 1.0)
        self._optimiser.step()
        self.steps += 1
        return losses

    @property
    def chunks(self) -> Chunks:
        """As they are now: halved, where memory ran out."""
        return self._learner.chunks

    def params(self) -> Params:
        """θ as it is."""
        return {name: tensor.detach().clone() for name, tensor in self._learner.params().items()}

    def _batch(self) -> Batch:
        while len(self._waiting) < self._size:
            self._waiting = torch.cat([self._waiting, torch.randperm(len(self._scans), generator=self._order)])
        chosen, self._waiting = self._waiting.split([self._size, len(self._waiting) - self._size])
        contexts = drawn_contexts(self._bench, self._scans.shape[1], self._ratio, self.steps)
        return Batch(self._scans[chosen.to(self._scans.device)], contexts)


def first_that_steps(
    bench: Bench, candidates: tuple[ways.Way, ...], loop_of: Callable[[ways.Way], OuterLoop]
) -> tuple[str, OuterLoop]:
    """The first way in which an outer step gives finite losses here, and its loop, that one step taken."""
    why: list[str] = []
    for way in candidates:
        try:
            loop = loop_of(way)
            if bool(torch.isfinite(loop.step()).all()):
                return way.name, loop
            why.append(f"{way.name}: losses are not finite")
        except Exception as error:
            if ran_out_of_memory(error):  # no other way needs less; whoever asked may try fewer scans
                raise
            why.append(f"{way.name}: {last_lines_of(error)}")
        bench.release()
    raise RuntimeError("no way steps here: " + "; ".join(why))


def _train(bench: Bench, file: Path) -> None:
    spec, sizes = bench.sizes.spec(), bench.sizes
    scans = images(bench.job.data, "train", TRAINING_SCANS, sizes.side).to(bench.device)
    coordinates = grid((sizes.side, sizes.side), bench.device)
    until = bench.left() * (1 - SHARE_OF_TIME)

    def loop_of(way: ways.Way) -> OuterLoop:
        learner = ways.learner(spec, untrained(spec, bench.device), coordinates, way, bench)
        return OuterLoop(bench, learner, scans, sizes.training_rate)

    way, loop = first_that_steps(bench, ways.BEST, loop_of)
    losses = loop.step()
    first = losses
    while loop.steps < sizes.training_steps and bench.left() > until:
        losses = loop.step()
    _write(file, loop.params())
    told = {"steps": loop.steps, "way": way, "loss_first": float(first.mean()), "loss_last": float(losses.mean())}
    bench.tell("the network, trained here", told)


def _write(file: Path, params: Params) -> None:
    new = file.with_suffix(f".{os.getpid()}")
    new.write_bytes(safetensors.torch.save({name: t.cpu().contiguous() for name, t in params.items()}))
    new.replace(file)
