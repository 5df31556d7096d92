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
    _rates: Tensor | None

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
        # A buffer, so that it moves to a GPU with the module: a copy at every step would keep the host waiting.
        self.register_buffer("_rates", None if learn_rates else rates, persistent=False)
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
        weights: Float[Tensor, "batch point"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Each scan's loss over all coordinates after one inner step per context set, from the initial ``latents``."""
        if self.engine == "unrolled":
            return self._unrolled(targets, latents, contexts, weights)
        theta = [self.params()[name] for name in self.spec.shapes()]
        if torch.is_grad_enabled():
            here = [context.to(targets.device) for context in contexts]
            given = here if weights is None else [weights, *here]
            return _recursive(self._step, targets, given, latents, self.rates, *theta)
        return adapted_losses(self._objective(targets, latents, theta).weighted(weights), contexts, self.rates)

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

        ``rest``: the points' weights where they have some, the context sets, then θ in the order of ``spec.shapes()``.
        """
        names = self.spec.shapes()
        given, theta = rest[: -len(names)], rest[-len(names) :]
        weights, contexts = _weights_and_contexts(given)
        result = meta_gradient(self._objective(targets, latents, theta).weighted(weights), contexts, rates)
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

    def _unrolled(self, targets: Tensor, latents: Tensor, contexts: Sequence[Tensor], weights: Tensor | None) -> Tensor:
        params, differentiable = self.params(), torch.is_grad_enabled()
        adapted = adapt(
            self.spec, params, self.coordinates, targets, latents, contexts, self.rates, differentiable, weights
        )
        return mse(field(self.spec, params, self.coordinates, adapted), targets, weights)


def _weights_and_contexts(given: Sequence[Tensor]) -> tuple[Tensor | None, Sequence[Tensor]]:
    """Context sets are indices, and weights are not: so a step's inputs remain one list of tensors."""
    if given and given[0].is_floating_point():
        return given[0], given[1:]
    return None, given


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
        given: Sequence[Tensor],
        latents: Tensor,
        rates: Tensor,
        *theta: Tensor,
    ) -> Tensor:
        losses, ctx.by_latents, *ctx.by_shared = step(targets, latents, rates, *given, *theta)
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        weight = common_weight(weights, read=can_be_read_freely(weights))
        by_shared = [weight * gradient for gradient in ctx.by_shared]
        return None, None, None, weights[:, None] * ctx.by_latents, *by_shared


def can_be_read_freely(weights: Tensor) -> bool:
    """Whether the host waits for nothing when it reads them."""
    return weights.device.type == "cpu"


def common_weight(weights: Float[Tensor, " batch"], *, read: bool) -> Float[Tensor, ""]:
    """The weight of every scan in the loss.

    The gradients by what scans share are already summed: weights that differ could no longer be applied. Where they
    may be ``read``, that is a RuntimeError; elsewhere, where the host would wait for the device, the weight is NaN,
    and so are the gradients, whose norm whoever trains checks anyway.
    """
    equal = (weights == weights[0]).all()
    if not read:
        return weights[0].masked_fill(~equal, torch.nan)
    if not bool(equal):
        raise RuntimeError("the recursive engine needs a loss that weights all scans equally; use engine='unrolled'")
    return weights[0]


def _recursive(*inputs: Any) -> Tensor:
    losses: Tensor = _Recursive.apply(*inputs)  # type: ignore[no-untyped-call]
    return losses
