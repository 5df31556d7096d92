"""With this folder on PYTHONPATH a Python, and every one that it starts, finds only what the compute core needs.

Of site-packages these are the distributions below with their own dependencies; everything else is as if it were not
installed. The interpreter imports this module by its name, before it runs anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, packages_distributions, requires
from importlib.metadata import distribution as found_distribution
from typing import Any

NEEDED = ("torch", "numpy", "safetensors", "jaxtyping")
OURS = "medfuncta-dist"
EVERYTHING = DistributionFinder.Context()


def with_dependencies(names: Iterable[str]) -> set[str]:
    """The distributions and what they need in turn, extras left out, as far as it is installed."""
    found: set[str] = set()
    waiting = [normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found and is_installed(name):
            found.add(name)
            plain = [line for line in requires(name) or [] if "extra ==" not in line]
            waiting += [normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in plain]
    return found


def is_installed(name: str) -> bool:
    """Whether there is such a distribution."""
    try:
        found_distribution(name)
    except PackageNotFoundError:
        return False
    return True


def normal(name: str) -> str:
    """A distribution's name, however it was written."""
    return re.sub(r"[-_.]+", "-", name).lower()


class OnlyAllowed:
    """A finder without the packages that are refused."""

    def __init__(self, finder: Any, refused: set[str], distributions: set[str]) -> None:
        self._finder, self._refused, self._distributions = finder, refused, distributions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As the finder's, but None for what is refused."""
        return None if name.partition(".")[0] in self._refused else self._finder.find_spec(name, path, target)

    def find_distributions(self, context: DistributionFinder.Context = EVERYTHING) -> Iterator[Distribution]:
        """As the finder's, if it has any, without what is refused."""
        for found in getattr(self._finder, "find_distributions", lambda _: ())(context):
            if normal(found.metadata["Name"]) in self._distributions:
                yield found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def install() -> None:
    """Refuse, from now on, all that is installed beside the allowed distributions."""
    allowed = with_dependencies(NEEDED)
    refused = {
        module
        for module, names in packages_distributions().items()
        if not {normal(name) for name in names} & (allowed | {OURS})
    }
    for module in [name for name in sys.modules if name.partition(".")[0] in refused]:
        del sys.modules[module]
    sys.meta_path[:] = [OnlyAllowed(finder, refused, allowed) for finder in sys.meta_path]


install()
