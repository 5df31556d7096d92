"""Training state as tensors, whole and by name: what an engine gives and takes, and a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from medfuncta_dist.errors import IntegrityError


@dataclass(frozen=True)
class ParameterState:
    """One parameter with its Adam moments: float32 tensors of the parameter's shape, on the CPU."""

    param: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


State = dict[str, ParameterState]
"""By parameter name, as in ``Params``."""

PARTS = tuple(f.name for f in fields(ParameterState))
MOMENTS = PARTS[1:]
_OTHER = "use the run file that it was trained with, or another run name for another network"


def to_tensors(state: State) -> dict[str, Tensor]:
    """Flat: ``<part>/<parameter>`` → tensor."""
    return {f"{part}/{name}": getattr(whole, part).contiguous() for name, whole in state.items() for part in PARTS}


def from_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> State:
    """The inverse. IntegrityError when a tensor is missing, superfluous, or not float32 of its parameter's shape."""
    expected = {f"{part}/{name}": tuple(shape) for name, shape in shapes.items() for part in PARTS}
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        raise IntegrityError(
            f"the tensors are not those of this network: {wrong[0]} and {len(wrong) - 1} more", where=where, do=_OTHER
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name] or str(tensor.dtype) != "torch.float32":
            raise IntegrityError(f"{name} is not float32 of shape {list(expected[name])}", where=where, do=_OTHER)
    return {name: ParameterState(*(tensors[f"{part}/{name}"] for part in PARTS)) for name in shapes}
