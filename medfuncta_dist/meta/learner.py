"""What a trainer sees of a field that learns: one module whose forward is an outer step's losses, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.fields.field_kinds import FieldSpec
from medfuncta_dist.fields.params import Params
from medfuncta_dist.meta.sweeps.chunks import Chunks


class Ranks:
    """The processes that train one network together, as a learner needs them. This class: a single one."""

    @property
    def rank(self) -> int:
        """This one."""
        return 0

    @property
    def size(self) -> int:
        """How many there are."""
        return 1

    def sum(self, part: Tensor) -> Tensor:
        """The sum over ranks of a tensor of equal shape on each, the same on all of them. A collective."""
        return part

    def alive(self) -> None:
        """This one is at work that may take minutes, and goes on."""


@dataclass(frozen=True)
class Trained:
    """A shared network that fitting and decoding can use: all that is stored of it but where it comes from."""

    spec: FieldSpec
    params: Params
    extras: Params = field(default_factory=dict)
    """What fitting uses beside θ (``fields/shared_network.py``: ``EXTRAS``)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers about its latents, for the network's description."""


class Learner(torch.nn.Module):
    """Holds what is trained as parameters, named as in ``Params`` with ``_`` for ``.``, which torch does not allow.

    Its forward takes targets, initial latents and context sets, and gives each scan's loss; the loss may be averaged or
    scaled, but must weigh all scans of a call alike. Points may have weights of their own, within each scan. The
    coordinate grid is not part of the state: a network loads at any resolution.
    """

    ADAM_EPS: ClassVar[float] = 1e-8
    """Added to the root of Adam's second moment: well below a usual gradient."""

    coordinates: Tensor

    def __init__(self, spec: Any, start: Params, coordinates: Float[Tensor, "point coord"]) -> None:
        super().__init__()
        self.spec = spec
        """The architecture: a field's, or that of another model which is trained in the same way."""
        self.shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
        """Name → whole shape of every parameter: ZeRO 3 takes it from the parameters themselves."""
        for name, tensor in start.items():
            self.register_parameter(_attribute(name), torch.nn.Parameter(tensor))
        self.register_buffer("coordinates", coordinates, persistent=False)
        self.ranks = Ranks()
        """Set by whoever trains on several. Every rank then calls ``forward`` and ``trained`` together."""
        self.on_halved: Callable[[Chunks], None] = lambda chunks: None
        """Set by whoever keeps record: called with the chunks that are left where memory ran out."""

    def params(self) -> Params:
        """All that is trained, by name. Live parameters, not copies."""
        return {name: getattr(self, _attribute(name)) for name in self.shapes}

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Overwrite the parameters in place."""
        for name, parameter in self.params().items():
            parameter.copy_(params[name])

    def forward(
        self,
        targets: Float[Tensor, "batch point channel"],
        latents: Float[Tensor, "batch latent"],
        contexts: Sequence[Int[Tensor, " context"]],
        weights: Float[Tensor, "batch point"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Each scan's loss over all coordinates, of the latent that the inner loop finds on the context sets.

        ``weights``: how much each point of each scan counts, not negative, in both; None for all alike. Of a scan
        without any the loss and its gradient are 0; targets at points of weight 0 may be anything.
        """
        raise NotImplementedError

    def diagnostics(self) -> dict[str, float]:
        """Numbers about the last forward that are worth logging, by metric."""
        return {}

    @property
    def scans_to_finish(self) -> int:
        """How many training scans ``trained`` wants to see."""
        return 0

    def trained(self, params: Params, scans: Iterable[Float[Tensor, "batch point channel"]]) -> Trained:
        """The network that whole parameters are, ready to fit with. ``scans``: this rank's for training, in batches."""
        raise NotImplementedError


def _attribute(name: str) -> str:
    return name.replace(".", "_")
