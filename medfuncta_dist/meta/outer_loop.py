"""The outer loop's loss: how well the adapted latents reconstruct, differentiable in θ to second order.

Here by plain autograd through the unrolled inner loop: slow and large, but right by construction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medfuncta_dist.fields.siren import FieldSpec, Params, field
from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.losses import mse


class MetaLearner(torch.nn.Module):
    """Holds θ as parameters; its forward is the whole meta-step's loss, so that one module is all a trainer sees.

    Parameters are named as in ``Params`` with ``_`` for ``.``, which torch does not allow in a parameter's name.
    The coordinate grid is not part of the state: a network loads at any resolution.
    """

    coordinates: Tensor

    def __init__(self, spec: FieldSpec, params: Params, coordinates: Float[Tensor, "point coord"], rate: float) -> None:
        super().__init__()
        self.spec = spec
        self.rate = rate
        for name in spec.shapes():
            self.register_parameter(_attribute(name), torch.nn.Parameter(params[name].detach().clone()))
        self.register_buffer("coordinates", coordinates, persistent=False)

    def params(self) -> Params:
        """θ by name: the live parameters, not copies."""
        return {name: getattr(self, _attribute(name)) for name in self.spec.shapes()}

    @torch.no_grad()
    def load(self, params: Params) -> None:
        """Overwrite θ in place."""
        for name, parameter in self.params().items():
            parameter.copy_(params[name])

    def forward(
        self,
        targets: Float[Tensor, "batch point channel"],
        latents: Float[Tensor, "batch latent"],
        contexts: Sequence[Int[Tensor, " context"]],
    ) -> Float[Tensor, " batch"]:
        """Each scan's loss over all coordinates after one inner step per context set, from the initial ``latents``."""
        params = self.params()
        adapted = adapt(
            self.spec, params, self.coordinates, targets, latents, contexts, self.rate, torch.is_grad_enabled()
        )
        return mse(field(self.spec, params, self.coordinates, adapted), targets)


def _attribute(name: str) -> str:
    return name.replace(".", "_")
