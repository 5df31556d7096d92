"""Training state as whole tensors by name, as engines save and load it and checkpoints store it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from medfuncta_dist.errors import IntegrityError, RunChangedError


@dataclass(frozen=True)
class AdamState:
    """One parameter with its Adam moments: float32 tensors of the parameter's shape, on the CPU."""

    param: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


@dataclass(frozen=True)
class MuonState:
    """One matrix with its momentum, which is all the state of Muon: float32, on the CPU."""

    param: Tensor
    momentum_buffer: Tensor


ParameterState = AdamState | MuonState
Kind = type[AdamState] | type[MuonState]
State = dict[str, ParameterState]
"""By parameter name, as in ``Params``."""

_USE_OTHER = "use the run file that it was trained with, or another run name for another network"


def parts(kind: Kind) -> tuple[str, ...]:
    """Names of a state's tensors, as torch's optimisers have them; ``param`` is the first."""
    return tuple(field.name for field in fields(kind))


def moments(kind: Kind) -> tuple[str, ...]:
    """All parts but the parameter itself."""
    return parts(kind)[1:]


def to_tensors(state: State) -> dict[str, Tensor]:
    """Flat: ``<part>/<parameter>`` → tensor."""
    return {
        f"{part}/{name}": getattr(whole, part).contiguous()
        for name, whole in state.items()
        for part in parts(type(whole))
    }


def from_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> State:
    """The inverse; a parameter with a momentum belongs to Muon.

    IntegrityError when a tensor is missing, superfluous, or not float32 of its parameter's shape.
    """
    kinds: dict[str, Kind] = {name: MuonState if f"momentum_buffer/{name}" in tensors else AdamState for name in shapes}
    expected = {f"{part}/{name}": tuple(shapes[name]) for name, kind in kinds.items() for part in parts(kind)}
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        raise IntegrityError(
            f"the tensors are not those of this network: {wrong[0]} and {len(wrong) - 1} more",
            where=where,
            do=_USE_OTHER,
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name] or str(tensor.dtype) != "torch.float32":
            raise IntegrityError(f"{name} is not float32 of shape {list(expected[name])}", where=where, do=_USE_OTHER)
    return {name: kind(*(tensors[f"{part}/{name}"] for part in parts(kind))) for name, kind in kinds.items()}


def require_kinds(state: State, kinds: Mapping[str, Kind], where: str) -> None:
    """RunChangedError where a parameter has another optimiser's state than ``kinds`` says."""
    for name, kind in kinds.items():
        if type(state[name]) is not kind:
            trained, asked = ("muon", "adamw") if kind is AdamState else ("adamw", "muon")
            raise RunChangedError(
                f"the checkpoint was trained with another optimizer: {trained} trained {name}, not {asked}",
                where=where,
                do=f"use the run file that it was trained with (train.optimizer: {trained}), or another run name",
            )
