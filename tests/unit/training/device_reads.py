"""Counts, on a CPU, what would keep the host waiting on a GPU: reads of tensors, and tensors made from host numbers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READING_KERNELS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
}
INDEXING_KERNELS = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""They count the true elements of a mask first."""
READING_CALLS = {"tolist", "numpy", "cpu", "__array__", "__iter__"}
"""On a CPU they reach no kernel."""

Read = tuple[str, str]
"""What was called, and by whom: the nearest function outside torch's own machinery, or in its optimisers."""


class _Kernels(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in READING_KERNELS or (packet in INDEXING_KERNELS and _has_mask(args)):
            self._note(str(packet))
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        made = func is torch.tensor or (func is torch.as_tensor and not isinstance(args[0], Tensor))
        if name in READING_CALLS or made:
            self._note(f"torch.{name}")
        return func(*args, **(kwargs or {}))


@contextmanager
def device_reads(now: Callable[[], bool]) -> Iterator[Counter[Read]]:
    """The reads of this thread in the block, while ``now`` says so."""
    found: Counter[Read] = Counter()

    def note(what: str) -> None:
        if now():
            found[what, _reader(sys._getframe(2))] += 1

    with _Kernels(note), _Calls(note):
        yield found


def _has_mask(args: Sequence[Any]) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1] or ())


def _reader(frame: FrameType | None) -> str:
    while frame is not None:
        path = frame.f_code.co_filename
        for room in ("/medfuncta_dist/", "/deepspeed/", "/torch/optim/"):
            if room in path:
                return f"{room.strip('/')}/{path.split(room)[-1]}: {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"
