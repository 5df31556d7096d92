"""What a run reads and makes, as a service that tracks experiments may know it: kind, name, digest and figures.

Such a service gets a reference, and no content: shards, networks and latents stay where they are. Only a network's
files may go with it, where the run file says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["dataset", "network", "latents"]
Role = Literal["input", "output"]
"""Whether a run has read it or made it."""


@dataclass(frozen=True)
class Artifact:
    """A version of something that is stored. ``facts`` and ``name`` name no place and no person."""

    kind: Kind
    name: str
    """Of all its versions."""
    digest: str
    """Of this version: the one that our own records give it."""
    facts: Mapping[str, Any]
    """Plain values; PSNR in dB."""
    read_files: Callable[[], Mapping[str, bytes]] = dict
    """Content by file name; none where it is to stay in storage."""

    @property
    def reference(self) -> str:
        """A URI that says which version this is, and not where it is."""
        return f"medfuncta://{self.kind}/{self.digest}"
