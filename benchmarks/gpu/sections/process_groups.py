"""DeepSpeed at ZeRO 0 to 3 with NCCL on one rank, a state saved at 3 and loaded at 0; two gloo ranks with CUDA tensors.

NCCL needs a card per rank, so that two ranks on one card can use gloo only.
"""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.gpu import steps, ways
from benchmarks.gpu.bench import Bench, Skipped, Values
from benchmarks.gpu.plan import Job
from medfuncta_dist.fields.params import Params

STAGES = (0, 1, 2, 3)
STEPS = 3
RATE = 1e-4
LIMIT = 1e-5
"""Relative difference of θ from plain torch's after the steps; and of two ranks' gradient from one's."""


def run(bench: Bench) -> None:
    """Two ranks first: they need nothing that is not there."""
    bench.part("two ranks, gloo", lambda: two_ranks(bench))
    bench.part("DeepSpeed, ZeRO 0 to 3", lambda: deepspeed(bench))


def two_ranks(bench: Bench) -> Values:
    """The mean of two ranks' gradients, each of half the scans, is the gradient of all."""
    scans = 2 * max(1, bench.sizes.rank_scans // 2)
    problem = steps.Problem.of(bench, scans, batches=1)
    params = steps.untrained(problem.spec, bench.device)
    learner = ways.learner(problem.spec, params, problem.coordinates, ways.Way("fp32"), bench)
    expected = steps.gradients(learner, problem.batches[0])
    folder = Path(bench.job.scratch)
    context = mp.spawn(_rank, (bench.job, _free_port(), scans, str(folder)), nprocs=2, join=False)
    while not context.join(timeout=1.0):
        if bench.left() < 0:
            raise RuntimeError("the two ranks did not end in time")
    found = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    error = max(steps.largest_difference(one, expected) for one in found)
    equal = all(torch.equal(found[0][name], found[1][name]) for name in expected)
    return {"backend": "gloo", "scans": scans, "error": error, "ranks_equal": equal, "good": error <= LIMIT and equal}


def _rank(rank: int, job: Job, port: int, scans: int, folder: str) -> None:
    torch.set_num_threads(1)
    bench = Bench(job)
    _join("gloo", rank, 2, port)
    problem = steps.Problem.of(bench, scans, batches=1)
    whole = problem.batches[0]
    mine = steps.Batch(whole.targets.chunk(2)[rank], whole.contexts)
    params = steps.untrained(problem.spec, bench.device)
    learner = ways.learner(problem.spec, params, problem.coordinates, ways.Way("fp32"), bench)
    found = steps.gradients(learner, mine)
    flat = torch.cat([tensor.flatten() for tensor in found.values()])
    dist.all_reduce(flat)
    parts = torch.split(flat / 2, [tensor.numel() for tensor in found.values()])
    shaped = {name: part.view_as(found[name]).cpu().clone() for name, part in zip(found, parts, strict=True)}
    torch.save(shaped, Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()


def _join(backend: str, rank: int, size: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": "0"}
    os.environ["WORLD_SIZE"] = str(size)
    dist.init_process_group(backend, rank=rank, world_size=size)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def deepspeed(bench: Bench) -> Values:
    """θ after a few steps at every stage against plain torch, and the state of stage 3 loaded at stage 0."""
    if find_spec("deepspeed") is None:
        raise Skipped("deepspeed is not installed; carry its wheel")
    os.environ["DS_ACCELERATOR"] = "cuda" if bench.cuda else "cpu"
    backend = "nccl" if bench.cuda else "gloo"
    if bench.cuda:
        torch.cuda.set_device(0)
    _join(backend, 0, 1, _free_port())
    try:
        from medfuncta_dist.training.optim import engine
    except ImportError as error:
        raise Skipped(f"deepspeed cannot be imported here: {error}") from error
    engine.join_process_group(1.0 if bench.cuda else 0.0)
    problem = steps.Problem.of(bench, bench.sizes.rank_scans, batches=STEPS)
    expected = _plain_torch(bench, problem)
    found: dict[str, Any] = {"backend": backend, "steps": STEPS}
    state: Any = None
    for stage in STAGES:
        zero = _engine(bench, problem, stage)
        for batch in problem.batches:
            _step(zero, batch, problem.spec.latent)
        found[f"error_zero_{stage}"] = steps.largest_difference(zero.full_parameters(), expected)
        if stage == 3:
            state = zero.share_of_state()
    found["loaded_equal"] = _loads(bench, problem, state)
    dist.destroy_process_group()
    good = found["loaded_equal"] and all(found[f"error_zero_{stage}"] <= LIMIT for stage in STAGES)
    return found | {"good": good}


def _train(stage: int) -> Any:
    from medfuncta_dist.config.sections.train_section import Train

    return Train(zero_stage=stage, rate=RATE, clip=None, weight_decay=0.0, rate_by_omega=False)


def _learner(bench: Bench, problem: steps.Problem) -> steps.MetaLearner:
    params = steps.untrained(problem.spec, bench.device)
    return ways.learner(problem.spec, params, problem.coordinates, ways.Way("fp32"), bench)


def _engine(bench: Bench, problem: steps.Problem, stage: int) -> Any:
    from medfuncta_dist.training.optim.engine import Engine

    return Engine(_learner(bench, problem), _train(stage))


def _step(zero: Any, batch: steps.Batch, latent: int) -> None:
    latents = batch.targets.new_zeros(len(batch.targets), latent, requires_grad=True)
    zero.step(zero.losses(batch.targets, latents, batch.contexts).mean(), RATE)


def _plain_torch(bench: Bench, problem: steps.Problem) -> Params:
    learner = _learner(bench, problem)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=RATE, weight_decay=0.0, eps=learner.ADAM_EPS)
    for batch in problem.batches:
        learner.zero_grad(set_to_none=True)
        steps.meta_step(learner, batch)
        optimiser.step()
    return {name: tensor.detach().clone() for name, tensor in learner.params().items()}


def _loads(bench: Bench, problem: steps.Problem, state: Any) -> bool:
    """Whether a state saved at stage 3 is the same after it was loaded at stage 0."""
    learner = _learner(bench, problem)
    learner.load({name: whole.param for name, whole in state.items()})
    from medfuncta_dist.training.optim.engine import Engine

    zero, batch = Engine(learner, _train(0)), problem.batches[0]
    latents = batch.targets.new_zeros(len(batch.targets), problem.spec.latent, requires_grad=True)
    zero.create_moments(batch.targets, latents, batch.contexts)
    zero.load_moments(state, STEPS)
    again = zero.share_of_state()
    return all(
        torch.equal(value, getattr(again[name], part))
        for name, whole in state.items()
        for part, value in vars(whole).items()
    )
