"""Sweeps through ``torch.compile``: never with other numbers unnoticed.

Each kind and shape of sweep is compiled once a process, and its first result is compared with the eager one. Whether a
run computes so is settled when it starts (``self_check.py``); from then on what does not compile, or comes out
otherwise, is an error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.meta.machine.gpu_memory import is_out_of_memory
from medfuncta_dist.meta.machine.precision import tensor_cores
from medfuncta_dist.meta.sweeps.folded import Folded, ThetaGradient

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
"""Relative, by norm: what the project allows its gradients against the oracle. Sound kernels stay below 1e-5 in
float32 (7e-7 at 5 x 64, 5e-6 at 15 x 256); a wrong one is off by far more."""

Sweep = Callable[..., Any]


def swept(sweep: Sweep, network: Folded, *inputs: Any) -> Any:
    """``sweep(network, *inputs)``, compiled where the network's arithmetic says so.

    MedfunctaError when it does not compile, or differs from the eager result at the first call of its kind and shape.
    """
    if not network.arithmetic.compiled:
        return sweep(network, *inputs)
    kind = (sweep, network.spec, network.arithmetic, *(_shape(one) for one in inputs))
    run = _compiled(kind)
    if kind in _proven:
        with _products_of(network):
            return run(network, *inputs)
    copies = copy.deepcopy(inputs)
    expected = sweep(network, *copies)
    try:
        with _products_of(network):
            found = run(network, *inputs)
    except Exception as error:  # what compilers raise is of no one family
        if is_out_of_memory(error):
            raise  # whoever takes the step has smaller chunks
        raise _broken(f"does not compile here ({type(error).__name__}: {_first_line(error)})", sweep) from error
    _require_equal([found, *inputs], [expected, *copies], sweep)
    _proven.add(kind)
    return found


_proven: set[Any] = set()
"""Kinds whose first compiled result was compared."""


def _products_of(network: Folded) -> AbstractContextManager[None]:
    """Lets compiled products use what the network's precision says: inside, none can ask for itself."""
    exact = network.arithmetic.precision == "fp32"
    return nullcontext() if exact else tensor_cores(network.maps.device)


@cache
def _compiled(kind: Any) -> Sweep:
    # One for each kind, so that none is recompiled for another shape behind our back. Without the compiler's own CUDA
    # graphs: they leave out what adds to its inputs, three quarters of a step; ``captured.py`` records whole steps.
    run: Sweep = torch.compile(_copy(kind[0]), fullgraph=True, dynamic=False)
    return run


def _copy(sweep: Any) -> FunctionType:
    # The compiler keeps its results at a function's code, at most eight of them: each kind gets code of its own.
    # (torch 2.13 has an option for that, `isolate_recompiles`; older ones do not.)
    copy = FunctionType(
        sweep.__code__.replace(), sweep.__globals__, sweep.__name__, sweep.__defaults__, sweep.__closure__
    )
    copy.__kwdefaults__ = sweep.__kwdefaults__
    return copy


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    return type(value).__name__ if isinstance(value, ThetaGradient) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, ThetaGradient):
        yield from (*value.weights.values(), *value.biases.values())


def _require_equal(found: Any, expected: Any, sweep: Sweep) -> None:
    for one, other in zip(_tensors(found), _tensors(expected), strict=True):
        known = torch.isfinite(other)  # a scan that is not a number says nothing of the kernel
        error, size = (one - other)[known].norm(), other[known].norm()
        if not bool(error <= TOLERANCE[other.dtype] * size):
            raise _broken(f"differs from the eager one by {float(error / size):.1e} (relative)", sweep)


def _broken(what: str, sweep: Sweep) -> MedfunctaError:
    return MedfunctaError(
        f"the compiled {sweep.__name__} {what}",
        where=f"torch {torch.__version__}",
        do="use identical workers (the same torch, a C++ compiler on each), or start a run under another name with "
        "meta.compile: off",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
