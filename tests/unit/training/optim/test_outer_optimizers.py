"""Muon and AdamW as one optimiser, against the two of torch side by side."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.outer_loop import LOG_RATES, MetaLearner
from medfuncta_dist.training.optim.outer_optimizers import outer_optimizer
from medfuncta_dist.training.optim.parameter_groups import SHARE

SPEC = SirenSpec(2, 1, 4, 5, 3, (10.0, 20.0, 40.0))
RATE, DECAY = 1e-2, 0.1


def learner() -> MetaLearner:
    params = init_params(SPEC, torch.Generator().manual_seed(0))
    return MetaLearner(SPEC, params, grid([4, 4]), 0.1, learn_rates=True)


def settings(optimizer: str) -> Train:
    return Train.model_validate({"optimizer": optimizer, "rate": RATE, "weight_decay": DECAY, "rate_by_omega": True})


def give_gradients(model: MetaLearner, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def torch_s_own(model: MetaLearner) -> list[torch.optim.Optimizer]:
    """A group a parameter, each with its share written out."""
    square: list[dict[str, object]] = []
    others: list[dict[str, object]] = []
    for name, parameter in model.params().items():
        share = 30.0 if name == LOG_RATES else SPEC.omega(1) / SPEC.omega(int(name.split(".")[1]))
        decay = 0.0 if name == LOG_RATES else DECAY
        group: dict[str, object] = {"params": [parameter], "weight_decay": decay, "lr": RATE * share}
        (square if tuple(parameter.shape) == (5, 5) else others).append(group)
    return [torch.optim.Muon(square, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others)]


def test_one_optimiser_takes_the_steps_of_both() -> None:
    ours, theirs = learner(), learner()
    one, several = outer_optimizer(ours, settings("muon")), torch_s_own(theirs)
    for step in range(3):
        for model in (ours, theirs):
            give_gradients(model, step)
        for group in one.param_groups:
            group["lr"] = RATE * group[SHARE]
        for optimizer in (one, *several):
            optimizer.step()
    for name, parameter in theirs.params().items():
        assert torch.equal(ours.params()[name], parameter), name


def test_its_groups_and_its_state_are_those_of_its_parts() -> None:
    model = learner()
    one = outer_optimizer(model, settings("muon"))
    grouped = [p for group in one.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    give_gradients(model, 0)
    one.step()
    for name, parameter in model.params().items():
        square = name in ("layer.2.weight", "layer.3.weight")
        assert set(one.state[parameter]) == ({"momentum_buffer"} if square else {"step", "exp_avg", "exp_avg_sq"})


@pytest.mark.parametrize(("optimizer", "moved"), [("adamw", 1.0), ("muon", 0.2)])
def test_a_first_step_is_as_large_with_either(optimizer: str, moved: float) -> None:
    """In units of the rate, root mean square: AdamW's first is 1, Muon is made to match its usual 0.2."""
    model = learner()
    matrix = model.params()["layer.2.weight"]
    before = matrix.detach().clone()
    one = outer_optimizer(model, settings(optimizer).model_copy(update={"weight_decay": 0.0}))
    give_gradients(model, 0)
    one.step()
    assert (matrix.detach() - before).square().mean().sqrt() / RATE == pytest.approx(moved, rel=0.3)


@pytest.mark.parametrize(
    ("kind", "stage", "optimizer"),
    [("siren", 0, "adamw"), ("siren", 1, "adamw"), ("siren", 2, "adamw"), ("siren", 0, "muon"), ("basis", 1, "adamw")],
)
def test_a_step_does_not_wait_for_torch_s_compiler(kind: str, stage: int, optimizer: str) -> None:
    """Each restart of each worker would import it: more CPU time than all the rest of its start.

    At ZeRO 3 DeepSpeed's own hooks import it."""
    took = subprocess.run([sys.executable, "-c", ONE_STEP, kind, str(stage), optimizer], capture_output=True, text=True)
    assert took.stdout.splitlines()[-1:] == ["stepped"], took.stderr


ONE_STEP = """
import os, sys
os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
import torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.training.optim.engine import Engine
from medfuncta_dist.training.optim.engine import join_process_group
from tests.unit.training.optim.test_engine import inputs
from tests.unit.training.optim.test_engine import learner
join_process_group()
engine = Engine(learner(sys.argv[1]), Train(zero_stage=int(sys.argv[2]), optimizer=sys.argv[3]))
engine.step(engine.losses(*inputs(0)).mean(), 1e-3)
assert not {"torch._dynamo", "sympy"} & sys.modules.keys()
print("stepped")
"""
