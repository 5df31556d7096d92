"""The outer loop's loss: how well the adapted latents reconstruct, differentiable in θ to second order.

Two engines give the same numbers. ``unrolled`` is plain autograd through the inner loop: large and slow, but right by
construction, it is the oracle. ``recursive`` (``meta_gradient.py``) keeps no graph and is the one to train with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec, field
from medfuncta_dist.meta.inner_loop import adapt
from medfuncta_dist.meta.inner_rates import Rate, inner_rates
from medfuncta_dist.meta.learner import Learner, Trained
from medfuncta_dist.meta.losses import mse
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import Replayed, Work
from medfuncta_dist.meta.machine.gpu_memory import is_out_of_memory, release_memory, too_little
from medfuncta_dist.meta.machine.memory import keep_freed_memory
from medfuncta_dist.meta.meta_gradient import adapted_losses, meta_gradient
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold

Engine = Literal["recursive", "unrolled"]

LOG_RATES = "inner.log_rates"
"""Name of the learned inner rates' logarithms among the parameters: so no step of the outer loop makes a rate negative,
and a step changes it by a share of itself."""


class MetaLearner(Learner):
    """The latent-modulated SIREN as a trainer sees it.

    With ``learn_rates`` the inner rates are parameters too (``LOG_RATES``), ``rate`` being what they start from.
    ``chunks`` bounds the activations of the recursive engine (default: ``Chunks.sized``); with ``arithmetic`` (default:
    ``Arithmetic.best``) it decides the last bits: record both with a run.
    """

    spec: SirenSpec

    def __init__(
        self,
        spec: SirenSpec,
        params: Params,
        coordinates: Float[Tensor, "point coord"],
        rate: Rate,
        engine: Engine = "recursive",
        chunks: Chunks | None = None,
        learn_rates: bool = False,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        keep_freed_memory()
        start = {name: params[name].detach().clone() for name in spec.shapes()}
        rates = inner_rates(spec, rate, start["layer.1.weight"]).detach().clone()
        if learn_rates:
            start[LOG_RATES] = rates.log()
        super().__init__(spec, start, coordinates)
        self.engine, self.arithmetic = engine, arithmetic
        self.chunks = chunks or Chunks.sized(spec.hidden)
        self._rates = None if learn_rates else rates
        self._replayed = Replayed(self.work)
        self._halved = False

    @property
    def rates(self) -> Float[Tensor, "step layer latent"]:
        """The inner rates, differentiable in what they are learned from."""
        return self.params()[LOG_RATES].exp() if self._rates is None else self._rates

    def forward(
        self,
        targets: Float[Tensor, "batch point channel"],
        latents: Float[Tensor, "batch latent"],
        contexts: Sequence[Int[Tensor, " context"]],
    ) -> Float[Tensor, " batch"]:
        """Each scan's loss over all coordinates after one inner step per context set, from the initial ``latents``."""
        if self.engine == "unrolled":
            return self._unrolled(targets, latents, contexts)
        theta = [self.params()[name] for name in self.spec.shapes()]
        if torch.is_grad_enabled():
            here = [context.to(targets.device) for context in contexts]
            return _recursive(self._step, targets, here, latents, self.rates, *theta)
        return adapted_losses(self._objective(targets, latents, theta), contexts, self.rates)

    def _step(self, *inputs: Tensor) -> list[Tensor]:
        """``_run``; once in a process, a step that runs out of memory is taken again with half the chunks."""
        while True:
            try:
                return self._run(*inputs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error)
            self._halve(said)  # not within the handler: the error's frames hold the tensors of the failed step

    def _run(self, *inputs: Tensor) -> list[Tensor]:
        """``work``, replayed where this learner's arithmetic says so and there is a GPU."""
        captured = self.arithmetic is not None and self.arithmetic.require(inputs[0].device).captured
        return self._replayed(*inputs) if captured else self.work(*inputs)

    def _halve(self, said: str) -> None:
        """Go on with half the chunks; MedfunctaError where that has been done before."""
        if self._halved:
            raise too_little(self.chunks, said)
        self.chunks, self._halved = self.chunks.halved(), True
        self._replayed = Replayed(self.work)
        release_memory()
        self.on_halved(self.chunks)

    def work(self, targets: Tensor, latents: Tensor, rates: Tensor, *rest: Tensor) -> list[Tensor]:
        """An outer step as a function of tensors on one device: losses, and their gradients by latents, rates and θ.

        ``rest``: the context sets, then θ in the order of ``spec.shapes()``.
        """
        names = self.spec.shapes()
        contexts, theta = rest[: -len(names)], rest[-len(names) :]
        result = meta_gradient(self._objective(targets, latents, theta), contexts, rates)
        return [result.losses, result.latents, result.rates, *(result.params[name] for name in names)]

    def _objective(self, targets: Tensor, latents: Tensor, theta: Sequence[Tensor]) -> Objective:
        network = fold(self.spec, dict(zip(self.spec.shapes(), theta, strict=True)), self.arithmetic)
        return Objective(network, self.coordinates, targets, latents, self.chunks)

    def trained(self, params: Params, scans: Iterable[Tensor]) -> Trained:
        """θ as it is, with the inner rates beside it unless they are one number that was not learned."""
        theta = {name: params[name].detach() for name in self.spec.shapes()}
        if self._rates is not None and self._rates.numel() == 1:
            return Trained(self.spec, theta)
        rates = params[LOG_RATES].detach().exp() if self._rates is None else self._rates
        rates = rates.expand(-1, -1, self.spec.latent)
        return Trained(self.spec, theta, {"inner.rates": (rates[:, 0] if rates.shape[1] == 1 else rates).contiguous()})

    def _unrolled(self, targets: Tensor, latents: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        params, differentiable = self.params(), torch.is_grad_enabled()
        adapted = adapt(self.spec, params, self.coordinates, targets, latents, contexts, self.rates, differentiable)
        return mse(field(self.spec, params, self.coordinates, adapted), targets)


class _Recursive(torch.autograd.Function):
    """One node of autograd's graph: computes losses and gradients together, and hands the gradients over when asked.

    So whoever wraps the module (DeepSpeed at any ZeRO stage) sees an ordinary loss, and θ need be whole only during
    the forward. The gradients may lie in a CUDA graph's memory: only the backward that follows reads them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        step: Work,
        targets: Tensor,
        contexts: Sequence[Tensor],
        latents: Tensor,
        rates: Tensor,
        *theta: Tensor,
    ) -> Tensor:
        losses, ctx.by_latents, *ctx.by_shared = step(targets, latents, rates, *contexts, *theta)
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        # The gradients by what scans share are already summed: weights that differ could no longer be applied.
        if not bool((weights == weights[0]).all()):
            raise RuntimeError(
                "the recursive engine needs a loss that weights all scans equally; use engine='unrolled'"
            )
        by_shared = [weights[0] * gradient for gradient in ctx.by_shared]
        return None, None, None, weights[:, None] * ctx.by_latents, *by_shared


def _recursive(*inputs: Any) -> Tensor:
    losses: Tensor = _Recursive.apply(*inputs)  # type: ignore[no-untyped-call]
    return losses
