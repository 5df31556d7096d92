"""Each parameter's share of the outer rate. Pure.

AdamW moves every number by about the rate, whatever its size; in the phase ω(Wh + b + Mφ + c) such a step counts ω
times. With ω rising from 20 to 200 the last phases turn ten times as far as the first, although their weights,
drawn from ±√(6/n)/ω, are ten times smaller. With ``train.rate_by_omega`` layer k gets the share ω₁/ω_k and all phases
turn alike: it is AdamW on the folded weights ωW of docs/method.md, section 2, in units of the first layer's.
"""

from __future__ import annotations

from typing import Any

from medfuncta_dist.config.run_file import Train
from medfuncta_dist.fields.siren import FieldSpec
from medfuncta_dist.meta.outer_loop import LOG_RATES, MetaLearner

SHARE = "share_of_rate"
"""Key of a parameter group's share."""

RATES_SHARE = 30.0
"""Of the logarithm of an inner rate: at train.rate = 1e-3 a step changes an inner rate by 3 %. At a share of 1, as θ
has it, tripling one would take more than a thousand steps."""


def share_of_rate(name: str, spec: FieldSpec, by_omega: bool) -> float:
    """What the outer rate is multiplied with for the parameter of this name."""
    if name == LOG_RATES:
        return RATES_SHARE
    return spec.omega(1) / spec.omega(int(name.split(".")[1])) if by_omega else 1.0


def parameter_groups(learner: MetaLearner, train: Train) -> list[dict[str, Any]]:
    """AdamW's groups: one for each share. θ decays by ``train.weight_decay``, the logarithm of a rate does not."""
    groups: dict[float, dict[str, Any]] = {}
    for name, parameter in learner.params().items():
        share = share_of_rate(name, learner.spec, train.rate_by_omega)
        decay = 0.0 if name == LOG_RATES else train.weight_decay
        group = groups.setdefault(share, {"params": [], "weight_decay": decay, SHARE: share})
        group["params"].append(parameter)
    return list(groups.values())
