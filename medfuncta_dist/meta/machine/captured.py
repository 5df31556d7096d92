"""Whole steps as CUDA graphs: recorded once for inputs of a shape, then replayed by a single launch.

A step of the paper's network is five thousand kernels of a few microseconds each; launched one by one, the processor
that launches them is what takes the time. A graph replays the same kernels on the same memory, so it gives the same
numbers, as long as nothing in the step was decided by a value: what ``work`` reads from the host is frozen as it was
when the graph was recorded. So ``work`` is a function of tensors alone, and the first replay is compared with the eager
result; ``agrees_with_replays`` compares later ones, whose inputs the recording has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.gpu_memory import out_of_memory_behind

Work = Callable[..., list[Tensor]]
"""Tensors to tensors, without changing any."""

WARM_UPS = 2
"""Before recording, on the stream that records: libraries make their handles, compiled kernels are loaded."""
MOST_GRAPHS = 2
"""Shapes that are recorded at a time, each with the memory of a step: whole blocks and their rests. A fit meets more,
one for each shard that is smaller than a batch, and its memory is planned for a few blocks only."""
CHECKED = range(2, 5)
"""The replays, counted from 0, that are compared before a run computes so."""
TOLERANCE = 1e-5
"""Relative, by norm. The kernels are the same, but sums by atomic additions may come in another order."""


Recorder = Callable[[Work, Sequence[Tensor]], tuple[Callable[[], None], list[Tensor]]]
"""Records ``work`` on these inputs, whose memory it keeps: what replays it, and the results that a replay fills."""


def record_cuda_graph(work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], list[Tensor]]:
    """A ``Recorder``: on the inputs' device."""
    stream = torch.cuda.Stream(inputs[0].device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # The thread that fetches the next batch goes on copying meanwhile: its calls are not this recording's business.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        results = work(*inputs)
    return graph.replay, results


class Replayed:
    """``work``, recorded for each shape of inputs when it is first called with it; the last few shapes are kept.

    The results lie in memory that the next call with inputs of this shape overwrites: copy what outlives it.
    """

    def __init__(self, work: Work, record: Recorder = record_cuda_graph) -> None:
        self._work, self._record = work, record
        self._graphs: dict[object, _Graph] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """``work(*inputs)``. MedfunctaError where it cannot be recorded, or a replay differs from the eager result."""
        kind = tuple((one.shape, one.dtype, one.device) for one in inputs)
        if kind in self._graphs:
            self._graphs[kind] = self._graphs.pop(kind)  # the last one used is the last in the dictionary
            return self._graphs[kind].replay(inputs)
        while len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        expected = [one.clone() for one in self._work(*inputs)]
        self._graphs[kind] = graph = _Graph(self._work, inputs, self._record)
        results = graph.replay(inputs)
        if difference(results, expected) > TOLERANCE:
            raise _broken("a replay differs from the eager step")
        return results


class _Graph:
    """One recording, with the memory of its inputs."""

    def __init__(self, work: Work, inputs: Sequence[Tensor], record: Recorder) -> None:
        self._inputs = [one.detach().clone() for one in inputs]
        try:
            self._replay, self._results = record(work, self._inputs)
        except Exception as error:  # what cannot be recorded raises errors of no one family
            if memory := out_of_memory_behind(error):
                raise memory from None
            first = next(iter(str(error).splitlines()), "")[:200]
            raise _broken(f"the step cannot be recorded ({type(error).__name__}: {first})") from error

    def replay(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._replay()
        return self._results


def agrees_with_replays(work: Work, replayed: Work, fresh_inputs: Iterable[Sequence[Tensor]]) -> float:
    """The largest relative difference from the eager results over the replays that are checked.

    Each takes the next of ``fresh_inputs``, at least ``CHECKED.stop`` of one shape. MedfunctaError as ``Replayed``.
    """
    largest = 0.0
    for turn, inputs in zip(range(CHECKED.stop), fresh_inputs, strict=False):
        found = [one.clone() for one in replayed(*inputs)]
        if turn in CHECKED:
            largest = max(largest, difference(found, work(*inputs)))
    return largest


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest over the tensors of ‖found − expected‖ / ‖expected‖, where ``expected`` is finite.

    Infinite where one is not finite and the other is.
    """
    return max(_difference(one, other) for one, other in zip(found, expected, strict=True))


def _difference(found: Tensor, expected: Tensor) -> float:
    known = torch.isfinite(expected)
    if not torch.equal(torch.isfinite(found), known):
        return torch.inf
    error, size = ((tensor[known].double().norm()) for tensor in (found.double() - expected.double(), expected))
    return float(error / size) if float(error) else 0.0


def _broken(what: str) -> MedfunctaError:
    return MedfunctaError(
        what,
        where=f"torch {torch.__version__}, CUDA graphs",
        do="use identical workers (the same torch, driver and GPU), or start a run under another name with "
        "meta.graphs: off",
    )
