from __future__ import annotations

import pytest
import torch

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.fields import basis
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.outer_loop import LOG_RATES, MetaLearner
from medfuncta_dist.training.checkpoints.training_state import AdamState, MuonState
from medfuncta_dist.training.optim.parameter_groups import (
    RATES_SHARE,
    SHARE,
    kinds_of_state,
    muon_parameters,
    parameter_groups,
    share_of_rate,
)

SPEC = SirenSpec(2, 1, 4, 3, 2, (10.0, 20.0, 40.0))


def learner(learn_rates: bool) -> MetaLearner:
    return MetaLearner(SPEC, init_params(SPEC, torch.Generator()), grid([4, 4]), 0.1, learn_rates=learn_rates)


@pytest.mark.parametrize(
    ("name", "share"),
    [("layer.1.weight", 1), ("layer.2.bias", 0.5), ("modulation.3.weight", 0.25), ("layer.4.weight", 1 / 6)],
)
def test_layers_share_by_their_omega_only_when_asked(name: str, share: float) -> None:
    assert share_of_rate(name, SPEC, by_omega=True) == pytest.approx(share)
    assert share_of_rate(name, SPEC, by_omega=False) == 1


def test_plain_settings_are_one_group() -> None:
    [group] = parameter_groups(learner(False), Train(weight_decay=0.1, rate_by_omega=False))
    assert (group[SHARE], group["weight_decay"], len(group["params"])) == (1, 0.1, len(SPEC.shapes()))


@pytest.mark.parametrize("by_omega", [True, False])
def test_every_parameter_is_in_one_group_and_rates_do_not_decay(by_omega: bool) -> None:
    model = learner(True)
    groups = parameter_groups(model, Train(weight_decay=0.1, rate_by_omega=by_omega))
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    [rates] = [g for g in groups if any(p is model.params()[LOG_RATES] for p in g["params"])]
    assert (rates[SHARE], rates["weight_decay"], len(rates["params"])) == (RATES_SHARE, 0.0, 1)


def test_muon_takes_the_hidden_matrices_only_and_only_when_asked() -> None:
    assert muon_parameters(SPEC, Train(optimizer="muon")) == ["layer.2.weight", "layer.3.weight"]
    assert muon_parameters(SPEC, Train(optimizer="adamw")) == []


def test_a_square_map_of_latents_is_no_hidden_matrix() -> None:
    spec = SirenSpec(3, 3, 3, 3, 3, (10.0, 20.0))
    assert spec.shapes()["modulation.2.weight"] == spec.shapes()["layer.1.weight"] == (3, 3)
    assert muon_parameters(spec, Train(optimizer="muon")) == ["layer.2.weight"]


def test_a_parameter_s_state_is_its_optimiser_s() -> None:
    model = learner(True)
    kinds = kinds_of_state(model, Train(optimizer="muon"))
    assert kinds.keys() == model.shapes.keys()
    assert {name for name, kind in kinds.items() if kind is MuonState} == {"layer.2.weight", "layer.3.weight"}
    assert set(kinds_of_state(model, Train(optimizer="adamw")).values()) == {AdamState}


def test_groups_of_some_parameters_leave_out_the_others() -> None:
    model = learner(True)
    names = ["layer.2.weight", "layer.3.weight"]
    groups = parameter_groups(model, Train(rate_by_omega=True), names)
    assert [group[SHARE] for group in groups] == [0.5, 0.25]
    assert [p.shape for group in groups for p in group["params"]] == [(3, 3), (3, 3)]


def test_a_basis_fields_small_gradients_move_it_by_the_rate_all_the_same() -> None:
    """Scans that are nearly represented have gradients far below Adam's usual epsilon, which would stop training."""
    spec = BasisSpec(2, 1, 3, 8, 12, 12, (5.0, 10.0), mapped=False)
    model = BasisLearner(spec, basis.init_params(spec, torch.Generator().manual_seed(0)), grid([8, 8]), 4, 1e-4, 64)
    scans = 0.5 + 1e-4 * torch.randn(4, 64, 1, generator=torch.Generator().manual_seed(1))
    model(scans, torch.zeros(4, 4, requires_grad=True), []).mean().backward()
    before = {name: parameter.detach().clone() for name, parameter in model.params().items()}
    torch.optim.AdamW(parameter_groups(model, Train(weight_decay=0.0, rate_by_omega=False)), lr=1e-3).step()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.params().values()])
    moves = torch.cat([(parameter - before[name]).flatten() for name, parameter in model.params().items()])
    assert 0 < gradients.abs().median() < 1e-9
    assert moves.abs().median().item() == pytest.approx(1e-3, rel=0.01)
