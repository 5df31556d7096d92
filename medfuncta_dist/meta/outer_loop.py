"""The outer loop's loss: how well the adapted latents reconstruct, differentiable in θ to second order.

Two engines give the same numbers. ``unrolled`` is plain autograd through the inner loop: large and slow, but right by
construction, it is the oracle. ``recursive`` (``meta_gradient.py``) keeps no graph and is the one to train with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from medfuncta_dist.fields.siren import FieldSpec, Params, field
from medfuncta_dist.meta.chunks import Chunks
from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.losses import mse
from medfuncta_dist.meta.meta_gradient import adapted_losses, meta_gradient

Engine = Literal["recursive", "unrolled"]


class MetaLearner(torch.nn.Module):
    """Holds θ as parameters; its forward is the whole meta-step's loss, so that one module is all a trainer sees.

    Parameters are named as in ``Params`` with ``_`` for ``.``, which torch does not allow in a parameter's name.
    The coordinate grid is not part of the state: a network loads at any resolution.

    ``chunks`` bounds the activations of the recursive engine (default: ``Chunks.sized``) and decides the last bits:
    record it with a run. Its loss may be averaged or scaled, but must weigh all scans of a call alike.
    """

    coordinates: Tensor

    def __init__(
        self,
        spec: FieldSpec,
        params: Params,
        coordinates: Float[Tensor, "point coord"],
        rate: float,
        engine: Engine = "recursive",
        chunks: Chunks | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.rate, self.engine = spec, rate, engine
        self.chunks = chunks or Chunks.sized(spec.hidden)
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
        if self.engine == "unrolled":
            return self._unrolled(targets, latents, contexts)
        params, settings = self.params(), (self.spec, self.coordinates, contexts, self.rate, self.chunks)
        if torch.is_grad_enabled():
            return _recursive(settings, targets, latents, *params.values())
        return adapted_losses(self.spec, params, self.coordinates, targets, latents, contexts, self.rate, self.chunks)

    def _unrolled(self, targets: Tensor, latents: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        params, differentiable = self.params(), torch.is_grad_enabled()
        adapted = adapt(self.spec, params, self.coordinates, targets, latents, contexts, self.rate, differentiable)
        return mse(field(self.spec, params, self.coordinates, adapted), targets)


class _Recursive(torch.autograd.Function):
    """One node of autograd's graph: computes losses and gradients together, and hands the gradients over when asked.

    So whoever wraps the module (DeepSpeed at any ZeRO stage) sees an ordinary loss, and θ need be whole only during
    the forward.
    """

    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], targets: Tensor, latents: Tensor, *tensors: Tensor) -> Tensor:
        spec, coordinates, contexts, rate, chunks = settings
        params = dict(zip(spec.shapes(), tensors, strict=True))
        result = meta_gradient(spec, params, coordinates, targets, latents, contexts, rate, chunks)
        ctx.by_latents, ctx.by_params = result.latents, [result.params[name] for name in params]
        return result.losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        # The gradients by θ are already summed over scans: weights that differ could no longer be applied.
        if not bool((weights == weights[0]).all()):
            raise RuntimeError("the recursive engine needs a loss that weighs all scans alike; use engine='unrolled'")
        by_params = [weights[0] * gradient for gradient in ctx.by_params]
        return None, None, weights[:, None] * ctx.by_latents, *by_params


def _recursive(*inputs: Any) -> Tensor:
    losses: Tensor = _Recursive.apply(*inputs)  # type: ignore[no-untyped-call]
    return losses


def _attribute(name: str) -> str:
    return name.replace(".", "_")
