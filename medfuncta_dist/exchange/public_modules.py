"""Whole modules of the public code (``torch.save(model)``), read as plain values: the code itself is not needed, and
nothing of it is executed.

``fit_NFset.py`` writes one beside the latents, as ``model.pt``. It holds ω and whether there are skip connections,
which a state dict does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from medfuncta_dist.exchange.torch_file import RefusedFileError


class Module:
    """In the place of a torch module: its attributes, and no behaviour."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state if isinstance(state, dict) else {}

    def child(self, name: str) -> Module:
        """A module in this one. RefusedFileError where there is none."""
        found: Module = _of_type(Module, _within(self.state, "_modules", name))
        return found

    @property
    def children(self) -> list[Module]:
        """The modules in this one, in their order."""
        return [self.child(name) for name in _of_type(dict, self.state.get("_modules"))]

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Parameters by the names of a state dict."""
        for name, tensor in _of_type(dict, self.state.get("_parameters")).items():
            if tensor is not None:
                yield f"{prefix}{name}", _of_type(Tensor, tensor).detach()
        for name in _of_type(dict, self.state.get("_modules")):
            yield from self.child(name).tensors(f"{prefix}{name}.")

    def number(self, name: str) -> float:
        """An attribute that is a number."""
        return float(_of_type((int, float), self.state.get(name)))


STAND_INS: dict[str, type] = dict.fromkeys(
    (
        "models.inrs.LatentModulatedSIREN",
        "models.layers.LatentModulatedSIRENLayer",
        "torch.nn.modules.linear.Linear",
        "torch.nn.modules.container.ModuleList",
    ),
    Module,
)


def _within(state: dict[str, Any], *names: str) -> Any:
    found: Any = state
    for name in names:
        found = _of_type(dict, found).get(name)
    return found


def _of_type(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise RefusedFileError("it is a module, but not one of the public code")
    return value
