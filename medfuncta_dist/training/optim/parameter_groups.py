"""Each parameter's share of the outer rate, and which of the outer optimisers steps it. Pure.

AdamW moves every number by about the rate, whatever its size; in the phase ω(Wh + b + Mφ + c) such a step counts ω
times. With ω rising from 20 to 200 the last phases turn ten times as far as the first, although their weights,
drawn from ±√(6/n)/ω, are ten times smaller. With ``train.rate_by_omega`` layer k gets the share ω₁/ω_k and all phases
turn alike: it is AdamW on the folded weights ωW of docs/method.md, section 2, in units of the first layer's. A step of
Muon is as large as AdamW's, and has the same share.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from medfuncta_dist.config.sections.train_section import Train
from medfuncta_dist.fields.field_kinds import FieldSpec
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.meta.outer_loop import LOG_RATES
from medfuncta_dist.training.checkpoints.training_state import AdamState, Kind, MuonState

SHARE = "share_of_rate"
"""Key of a parameter group's share."""

RATES_SHARE = 30.0
"""Of the logarithm of an inner rate: at train.rate = 1e-3 a step changes an inner rate by 3 %. At a share of 1, as θ
has it, tripling one would take more than a thousand steps."""


def share_of_rate(name: str, spec: FieldSpec, by_omega: bool) -> float:
    """The factor of the outer rate for the parameter of this name."""
    if name == LOG_RATES:
        return RATES_SHARE
    return spec.omega(1) / spec.omega_of(name) if by_omega else 1.0


def muon_parameters(spec: FieldSpec, train: Train) -> list[str]:
    """Names of the parameters that Muon steps: the hidden matrices W_2 … W_{K-1}, where the run file asks for it."""
    # Muon turns all directions of a matrix alike. W_1 and W_K have as few as there are coordinates and channels, and
    # its authors leave such layers to AdamW; the latents' maps M_k gained nothing by it (docs/decisions).
    return spec.hidden_matrices if train.optimizer == "muon" else []


def kinds_of_state(learner: Learner, train: Train) -> dict[str, Kind]:
    """The kind of state that each parameter's optimiser keeps."""
    muon = muon_parameters(learner.spec, train)
    return {name: MuonState if name in muon else AdamState for name in learner.shapes}


def parameter_groups(learner: Learner, train: Train, names: Collection[str] | None = None) -> list[dict[str, Any]]:
    """An optimiser's groups of these parameters (default: of all), one for each share.

    θ decays by ``train.weight_decay``, the logarithm of a rate does not.
    """
    groups: dict[float, dict[str, Any]] = {}
    for name, parameter in learner.params().items():
        if names is not None and name not in names:
            continue
        share = share_of_rate(name, learner.spec, train.rate_by_omega)
        decay = 0.0 if name == LOG_RATES else train.weight_decay
        group = groups.setdefault(share, {"params": [], "weight_decay": decay, "eps": learner.ADAM_EPS, SHARE: share})
        group["params"].append(parameter)
    return list(groups.values())
