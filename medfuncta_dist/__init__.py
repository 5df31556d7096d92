"""Archives of medical scans as compact neural representations, at cluster scale.

The public names, imported when first used; importing the package itself loads nothing heavy:

    RunFile, load_run_file          one run, validated; from YAML
    pack, train, fit, evaluate      the stages, as the commands of the same names run them
    submit_stages                   the stages as jobs of a cluster
    SharedNetwork, LatentTable      what training and fitting have made
    decode                          one latent back to a scan
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medfuncta_dist.version import __version__ as __version__

if TYPE_CHECKING:
    from medfuncta_dist.api import evaluate, fit, load_run_file, pack, submit_stages, train
    from medfuncta_dist.config.run_file import RunFile
    from medfuncta_dist.evaluation.decode import decode
    from medfuncta_dist.fields.shared_network import SharedNetwork
    from medfuncta_dist.latent_table.latent_table import LatentTable

__all__ = [
    "LatentTable",
    "RunFile",
    "SharedNetwork",
    "decode",
    "evaluate",
    "fit",
    "load_run_file",
    "pack",
    "submit_stages",
    "train",
]

# No name here may be that of a package inside this one (submit, run, network ...): Python sets an imported package as
# an attribute of its parent, which would then hide the function. Hence ``submit_stages``.
_MODULES = {
    "RunFile": "config.run_file",
    "SharedNetwork": "fields.shared_network",
    "LatentTable": "latent_table.latent_table",
    "decode": "evaluation.decode",
} | dict.fromkeys(("load_run_file", "pack", "train", "fit", "evaluate", "submit_stages"), "api")


def __getattr__(name: str) -> Any:
    """A public name, from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module 'medfuncta_dist' has no attribute {name!r}; public are {', '.join(__all__)}")
    value = getattr(import_module(f"medfuncta_dist.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
