"""The engine at ZeRO 0-3, on one and two real ranks, against plain torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import FieldSpec, init_params
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.meta.outer_loop import LOG_RATES, MetaLearner
from medfuncta_dist.training.checkpoints.training_state import AdamState, MuonState, ParameterState
from medfuncta_dist.training.optim.parameter_groups import RATES_SHARE
from medfuncta_dist.training.rank_sums import RankSums
from medfuncta_dist.training.world import World
from tests.kinds import KINDS
from tests.unit.training.ranks import on_ranks

BATCH, STEPS, RATE = 5, 5, 1e-3
SPECS: dict[str, FieldSpec] = {
    "siren": SirenSpec.linear(coords=2, channels=1, layers=3, hidden=7, latent=5, omega_first=5.0, omega_last=15.0),
    "basis": BasisSpec(2, 1, 3, 7, 9, 9, (5.0, 10.0), mapped=False),
}
STAGES = (0, 1, 2, 3)
CLIP = 1e-3


def learner(kind: str) -> Learner:
    """Parameters in several groups: a step size of its own for every layer, and a SIREN's rates, which are learned."""
    spec = SPECS[kind]
    params = init_params(spec, torch.Generator().manual_seed(3))
    if isinstance(spec, BasisSpec):
        return BasisLearner(spec, params, grid([6, 5]), 5, 1e-2, 7)
    return MetaLearner(spec, params, grid([6, 5]), torch.tensor([[0.1], [0.2]]), learn_rates=True)


def on_rank(kind: str) -> Learner:
    """The same on a rank of a process group."""
    model = learner(kind)
    model.ranks = RankSums(World.from_process_group(torch.device("cpu")))
    return model


def targets(step: int) -> torch.Tensor:
    return torch.rand(BATCH, 30, 1, generator=torch.Generator().manual_seed(step))


def contexts(step: int) -> list[torch.Tensor]:
    return context_sets(30, 0.5, 2, seed=1, outer_step=step)


def inputs(step: int, rows: slice = slice(None)) -> tuple[Any, ...]:
    mine = targets(step)[rows]
    return mine, torch.zeros(len(mine), 5, requires_grad=True), contexts(step)


def plain_torch(
    kind: str, clip: float | None, then_clip: float | None = None, muon: bool = False
) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """The oracle: one process, no DeepSpeed. Losses, norms, final parameters. ``then_clip``: from step 2 on."""
    model = learner(kind)
    matrix = model.params()["layer.2.weight"]
    layers = [
        {"params": [parameter], "lr": RATE * 5.0 / model.spec.omega_of(name)}
        for name, parameter in model.params().items()
        if name != LOG_RATES and not (muon and parameter is matrix)
    ]
    if kind == "siren":
        rates = {"params": [model.params()[LOG_RATES]], "lr": RATE * RATES_SHARE, "weight_decay": 0.0}
        layers.append(rates)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(layers, eps=model.ADAM_EPS, weight_decay=0.1)]
    if muon:
        lr = RATE * 5.0 / model.spec.omega(2)
        optimizers.append(torch.optim.Muon([matrix], lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    losses, norms = [], []
    for step in range(STEPS):
        clip = then_clip if then_clip and step >= 2 else clip
        model.zero_grad()
        loss = model(*inputs(step)).mean()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf"))))
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses, norms, {name: p.detach() for name, p in model.params().items()}


def rows_of_rank() -> slice:
    """Uneven on purpose: the first rank takes all that the others do not."""
    rank, world = dist.get_rank(), dist.get_world_size()
    first = BATCH - (world - 1) if world > 1 else BATCH
    return slice(0, first) if rank == 0 else slice(first + rank - 1, first + rank)


def take_steps(engine: Any, first: int, last: int) -> tuple[list[float], list[float]]:
    from medfuncta_dist.training.optim.engine import share_of_loss

    losses, norms = [], []
    for step in range(first, last):
        mine = engine.losses(*inputs(step, rows_of_rank()))
        total = mine.detach().sum() / BATCH
        norms.append(float(engine.step(share_of_loss(mine, BATCH, dist.get_world_size()), RATE)))
        dist.all_reduce(total)
        losses.append(float(total))
    return losses, norms


def settings(stage: int, clip: float | None, optimizer: Any = "adamw") -> Train:
    kind = {"optimizer": optimizer, "zero_stage": stage}
    return Train(batch=BATCH, clip=clip, weight_decay=0.1, rate_by_omega=True, **kind)


Saved = dict[str, dict[str, torch.Tensor]]


def saved_share(engine: Any) -> Saved:
    return {name: dict(vars(state)) for name, state in engine.share_of_state().items()}


def state_of(saved: Saved) -> dict[str, ParameterState]:
    return {name: (AdamState if "exp_avg" in whole else MuonState)(**whole) for name, whole in saved.items()}


def from_scratch(kind: str, clip: float | None) -> list[Any]:
    """At each stage: losses, norms and final parameters of all steps, and this rank's share of the state after two."""
    from medfuncta_dist.training.optim.engine import Engine, join_process_group

    join_process_group()
    found = []
    for stage in STAGES:
        engine = Engine(on_rank(kind), settings(stage, clip))
        first, first_norms = take_steps(engine, 0, 2)
        share = saved_share(engine)
        rest, rest_norms = take_steps(engine, 2, STEPS)
        found.append((first + rest, first_norms + rest_norms, dict(engine.full_parameters()), share))
    return found


def bucket_sizes(kind: str) -> list[tuple[int, ...]]:
    """At stages 1 to 3: what the engine was told, and what it has after a step."""
    from medfuncta_dist.training.optim.engine import Engine, join_process_group

    join_process_group()
    found = []
    for stage in (1, 2, 3):
        engine = Engine(on_rank(kind), settings(stage, None))
        take_steps(engine, 0, 1)
        told, zero = engine._engine, engine._engine.optimizer
        sizes = [told.zero_reduce_bucket_size(), told.zero_allgather_bucket_size(), told.zero_prefetch_bucket_size()]
        buffers = [buffer.numel() for bucket in zero.ipg_buckets.values() for buffer in buffers_of(bucket)]
        found.append((*sizes, zero.reduce_bucket_size, *buffers))
    return found


def buffers_of(bucket: Any) -> list[torch.Tensor]:
    """Stages 1 and 2 have a list of them."""
    buffer = bucket.buffer
    return buffer if isinstance(buffer, list) else [] if buffer is None else [buffer]


def spoiled(kind: str) -> list[float]:
    """At each stage, without and with clipping: the norm of a step whose gradients are not finite."""
    from medfuncta_dist.training.optim.engine import Engine, join_process_group

    join_process_group()
    engines = [Engine(on_rank(kind), settings(stage, clip)) for stage in STAGES for clip in (None, CLIP)]
    return [float(engine.step(engine.losses(*inputs(0)).sum() * math.inf, RATE)) for engine in engines]


def resumed(kind: str, saved: Saved, clip: float | None) -> list[Any]:
    """At each stage, loading a state: whether it would be saved again to the bit, the losses and final parameters."""
    from medfuncta_dist.training.optim.engine import Engine, join_process_group

    join_process_group()
    return [resumed_with(Engine, kind, saved, settings(stage, clip)) for stage in STAGES]


def resumed_with(
    new_engine: Any, kind: str, saved: Saved, train: Train
) -> tuple[bool, list[float], dict[str, torch.Tensor]]:
    model, state = on_rank(kind), state_of(saved)
    model.load({name: whole.param for name, whole in state.items()})
    engine = new_engine(model, train)
    engine.create_moments(*inputs(0, slice(0, 1)))
    engine.load_moments(state, steps=2)
    same = all(torch.equal(v, saved[name][k]) for name, whole in saved_share(engine).items() for k, v in whole.items())
    losses, _ = take_steps(engine, 2, STEPS)
    return same, losses, dict(engine.full_parameters())


def with_muon(kind: str, saved: Saved | None) -> dict[str, Any]:
    """Muon from scratch; new engines, going on from what it saved after two steps and from ``saved``; a still step."""
    from medfuncta_dist.training.optim.engine import Engine, join_process_group

    join_process_group()
    train = settings(0, None, "muon")
    engine = Engine(on_rank(kind), train)
    losses, norms = take_steps(engine, 0, 2)
    shares: list[Saved] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(shares, saved_share(engine))
    more_losses, more_norms = take_steps(engine, 2, STEPS)
    model = on_rank(kind)
    still = Engine(model, train)
    still.create_moments(*inputs(0, slice(0, 1)))
    unmoved = saved_share(still)
    if dist.get_rank() == 1:
        model.params()["layer.2.weight"].data += 1e-3
    still.create_moments(*inputs(0, slice(0, 1)))
    return {
        "scratch": (losses + more_losses, norms + more_norms, dict(engine.full_parameters())),
        "shares": shares,
        "own": resumed_with(Engine, kind, merged(kind, shares), train),
        "given": saved and resumed_with(Engine, kind, saved, train),
        "still": unmoved,
        "agreed": model.params()["layer.2.weight"].detach().clone(),
    }


def all_on_one(kind: str) -> tuple[list[Any], dict[str, Any]]:
    return from_scratch(kind, None), with_muon(kind, None)


def all_on_two(kind: str, saved: Saved, with_muon_: Saved) -> tuple[tuple[list[Any], list[Any]], dict[str, Any]]:
    return (from_scratch(kind, CLIP), resumed(kind, saved, CLIP)), with_muon(kind, with_muon_)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def one_rank(kind: str, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return on_ranks(1, all_on_one, kind, folder=tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def alone(one_rank: list[Any]) -> list[Any]:
    return [scratch for scratch, _ in one_rank]


@pytest.fixture(scope="module")
def muon_alone(one_rank: list[Any]) -> list[Any]:
    return [muon for _, muon in one_rank]


@pytest.fixture(scope="module")
def two_ranks(
    kind: str, alone: list[Any], muon_alone: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    saved, saved_with_muon = merged(kind, on_stage(alone, 1)), merged(kind, muon_alone[0]["shares"])
    return on_ranks(2, all_on_two, kind, saved, saved_with_muon, folder=tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def two(two_ranks: list[Any]) -> list[Any]:
    """Two uneven ranks: from scratch, and resumed from what one rank saved (clipping came later, so not compared)."""
    return [stages for stages, _ in two_ranks]


@pytest.fixture(scope="module")
def muon_two(two_ranks: list[Any]) -> list[Any]:
    """The same with Muon, without clipping."""
    return [muon for _, muon in two_ranks]


def on_stage(ranks: list[Any], stage: int) -> list[Saved]:
    return [rank[stage][3] for rank in ranks]


def merged(kind: str, shares: list[Saved]) -> Saved:
    assert sum(len(share) for share in shares) == len(learner(kind).shapes), "every parameter is written once"
    return {name: whole for share in shares for name, whole in share.items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_stage_takes_the_steps_of_plain_torch(
    kind: str, world_size: int, stage: int, alone: list[Any], two: list[Any]
) -> None:
    ranks, clip = (alone, None) if world_size == 1 else ([scratch for scratch, _ in two], CLIP)
    losses, norms, parameters = plain_torch(kind, clip)
    for rank in ranks:
        found_losses, found_norms, found_parameters, _ = rank[stage]
        assert found_losses == pytest.approx(losses, abs=1e-6)
        assert found_norms == pytest.approx(norms, rel=1e-4)
        assert_close(found_parameters, parameters)


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_s_state_resumes_on_two_at_any_stage(kind: str, stage: int, two: list[Any]) -> None:
    losses, _, parameters = plain_torch(kind, None, then_clip=CLIP)
    for _, restored in two:
        same, found_losses, found_parameters = restored[stage]
        assert same, "what was loaded is what would be saved again, to the bit"
        assert found_losses == pytest.approx(losses[2:], abs=1e-6)
        assert_close(found_parameters, parameters)


def test_partitioned_state_of_two_ranks_resumes_on_one_at_any_stage(kind: str, two: list[Any], tmp_path: Path) -> None:
    saved = merged(kind, on_stage([scratch for scratch, _ in two], 3))
    losses, _, parameters = plain_torch(kind, CLIP)
    [restored] = on_ranks(1, resumed, kind, saved, CLIP, folder=tmp_path)
    for same, found_losses, found_parameters in restored:
        assert same
        assert found_losses == pytest.approx(losses[2:], abs=1e-6)
        assert_close(found_parameters, parameters)


def test_zero_s_buffers_hold_as_many_numbers_as_are_trained(kind: str, tmp_path: Path) -> None:
    numbers = sum(math.prod(shape) for shape in learner(kind).shapes.values())
    [stages] = on_ranks(1, bucket_sizes, kind, folder=tmp_path)
    for sizes in stages:
        assert len(set(sizes)) == 1
        assert numbers <= sizes[0] < numbers + 1024
        assert len(sizes) >= 4


def test_gradients_that_are_not_finite_have_a_norm_that_is_not_at_any_stage(kind: str, tmp_path: Path) -> None:
    [norms] = on_ranks(1, spoiled, kind, folder=tmp_path)
    assert len(norms) == 2 * len(STAGES)
    assert not any(map(math.isfinite, norms))


@pytest.mark.parametrize("world_size", [1, 2])
def test_muon_takes_the_steps_of_torch_s_two_optimisers(
    kind: str, world_size: int, muon_alone: list[Any], muon_two: list[Any]
) -> None:
    losses, norms, parameters = plain_torch(kind, None, muon=True)
    for rank in muon_alone if world_size == 1 else muon_two:
        found_losses, found_norms, found_parameters = rank["scratch"]
        assert found_losses == pytest.approx(losses, abs=1e-6)
        assert found_norms == pytest.approx(norms, rel=1e-4)
        assert_close(found_parameters, parameters)
    _, _, plain = plain_torch(kind, None)
    assert (plain["layer.2.weight"] - parameters["layer.2.weight"]).abs().max() > 1e-4, "or nothing was shown"


@pytest.mark.parametrize("world_size", [1, 2])
def test_muon_goes_on_from_its_checkpoint_to_the_bit(
    world_size: int, muon_alone: list[Any], muon_two: list[Any]
) -> None:
    for rank in muon_alone if world_size == 1 else muon_two:
        losses, _, parameters = rank["scratch"]
        same, found_losses, found_parameters = rank["own"]
        assert same, "what was loaded is what would be saved again, to the bit"
        assert found_losses == losses[2:]
        assert all(torch.equal(found_parameters[name], value) for name, value in parameters.items())


def test_muon_goes_on_at_another_world_size(kind: str, muon_alone: list[Any], muon_two: list[Any]) -> None:
    losses, _, parameters = muon_alone[0]["scratch"]
    for rank in muon_two:
        same, found_losses, found_parameters = rank["given"]
        assert same
        assert found_losses == pytest.approx(losses[2:], abs=1e-6)
        assert_close(found_parameters, parameters)


def test_a_checkpoint_with_muon_holds_one_momentum_of_the_matrix_and_two_moments_of_all_else(
    kind: str, muon_two: list[Any]
) -> None:
    saved = merged(kind, muon_two[0]["shares"])
    assert saved["layer.2.weight"].keys() == {"param", "momentum_buffer"}
    assert saved["layer.2.weight"]["momentum_buffer"].any()
    others = [whole.keys() for name, whole in saved.items() if name != "layer.2.weight"]
    assert all(keys == {"param", "exp_avg", "exp_avg_sq"} for keys in others)


def test_a_still_step_moves_nothing_with_muon_either(kind: str, muon_alone: list[Any]) -> None:
    still, start = muon_alone[0]["still"], learner(kind).params()
    assert still.keys() == start.keys()
    for name, whole in still.items():
        assert torch.equal(whole.pop("param"), start[name])
        assert not any(moment.any() for moment in whole.values())


def test_ranks_agree_on_what_muon_stepped_after_every_step(kind: str, muon_two: list[Any]) -> None:
    """Rank 1 was moved away: on another kind of machine Muon's bfloat16 would do that."""
    first, second = (rank["agreed"] for rank in muon_two)
    assert torch.equal(first, learner(kind).params()["layer.2.weight"])
    assert torch.equal(first, second)
