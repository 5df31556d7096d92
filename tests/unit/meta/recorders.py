"""A recorder that a CPU has: torch's tracer freezes what a CUDA graph would freeze, and fails where that would fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from medfuncta_dist.meta.machine.captured import Work


def record_trace(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
    """The operators that ``work`` called, on the inputs' memory; values that it read are as they were."""
    traced = make_fx(_plain(work))(*inputs)
    results = [one.clone() for one in traced(*inputs)]

    def replay() -> None:
        for kept, found in zip(results, traced(*inputs), strict=True):
            kept.copy_(found)

    return replay, results


def reads_no_value(work: Work, inputs: Sequence[Tensor]) -> None:
    """Trace ``work`` on tensors that have shapes but no values: an error where it asks for one."""
    make_fx(_plain(work), tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


def _plain(work: Work) -> Work:
    """The tracer counts a bound method's arguments wrongly where the tests' shape checks wrap it."""
    return lambda *inputs: work(*inputs)
