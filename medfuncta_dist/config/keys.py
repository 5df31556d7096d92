"""What a key of the run file means for a run, written at the key: ``checkpoint_steps: Annotated[PositiveInt, FREE]``.

A section gives the meaning of all its keys (``MEANING``), and a key says only where it differs. Whoever needs the keys
that a run may change, that are part of a digest, or that may leave the machine asks for them by meaning
(``Section.keys_where``, ``Section.part``, ``RunFile.parts``); nobody keeps a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from pydantic.fields import FieldInfo


class WithinRun(StrEnum):
    """Whether a later start of the same run may come with another value of a key."""

    FIXED = "fixed"
    """It may not: the changed run file is refused."""
    SETTLED = "settled"
    """Nor may it; but it may be left open: then the run chooses a value once, keeps it in its run.yaml and goes on
    with it."""
    FREE = "free"
    """It may."""
    IDENTITY = "identity"
    """It tells where the run is: with another value it is another run."""


@dataclass(frozen=True)
class Meaning:
    """What a key means for a run. The defaults are the safe ones, for a key of which nothing is said."""

    within_run: WithinRun = WithinRun.FIXED
    decides_results: bool = True
    """Something that the run writes for others (shards, network, latents, report) depends on it."""
    in_contract: bool = False
    """It decides what a packed scan is, and is part of the data set's contract."""
    in_fit_digest: bool = False
    """It can change a latent, and is part of the digest that names a latent table. No two of these keys have one
    name."""
    public: bool = False
    """It may leave the machine, for a service such as Weights & Biases: it names no place and no person."""

    @property
    def fixed(self) -> bool:
        """A run keeps the value it began with, whether that was given or chosen."""
        return self.within_run in (WithinRun.FIXED, WithinRun.SETTLED)

    @property
    def settled(self) -> bool:
        """The run chooses a value where the run file leaves it open."""
        return self.within_run is WithinRun.SETTLED


@dataclass(frozen=True)
class Key:
    """An annotation of a key: what it means other than its section's ``MEANING``. None: as that says."""

    within_run: WithinRun | None = None
    decides_results: bool | None = None
    in_contract: bool | None = None
    in_fit_digest: bool | None = None
    public: bool | None = None


@dataclass(frozen=True)
class Before:
    """An annotation of a key: the value that a run which is older than the key was begun with.

    A default may change; such a run does not.
    """

    value: Any


@dataclass(frozen=True)
class Added(Before):
    """An annotation of a key that came after version 0.1. A run file in which it has its earlier value has the digests
    that the same run file had before the key existed; the comparison of run files includes it all the same. If the key
    decides no results, no digest includes it, whatever its value."""


@dataclass(frozen=True)
class OpenCountsAs:
    """An annotation of a key that may be left open: digests then hold this value, whatever the run chooses. So what a
    run measures names nothing, and a key that had this default in earlier versions has the same digests."""

    value: Any


@dataclass(frozen=True)
class OnlyFor:
    """An annotation of a key that does nothing but for one kind of field. For another kind it may have its default or
    one of ``idle``, which ask for nothing; anything else is refused."""

    kind: str
    idle: tuple[Any, ...] = ()


FREE = Key(within_run=WithinRun.FREE, decides_results=False, in_fit_digest=False)
"""May change at any time, and decides nothing but where, when or how safely the run computes."""
SETTLED = Key(within_run=WithinRun.SETTLED)
NO_RESULT = Key(decides_results=False)
"""It decides how fast the run computes, not what: no digest has to cover it."""
IDENTITY = Key(within_run=WithinRun.IDENTITY, decides_results=False)
CONTRACT = Key(in_contract=True)
FIT_DIGEST = Key(in_fit_digest=True)
PUBLIC = Key(public=True)

OF_SIREN, OF_BASIS = OnlyFor("siren"), OnlyFor("basis")

RESOURCES = Meaning(WithinRun.FREE, decides_results=False)
"""Of a whole section: what the run computes on, and who watches."""


def meanings(keys: Mapping[str, FieldInfo], section: Meaning) -> dict[str, Meaning]:
    """The meaning of each key of a section: the section's, changed by the key's own annotations."""
    return {name: _changed(section, key.metadata) for name, key in keys.items()}


def before(keys: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The keys of a section that not every run had from the beginning, and what they were for those that had not."""
    return {name: mark.value for name, key in keys.items() for mark in key.metadata if isinstance(mark, Before)}


def added(keys: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The keys of a section that digests leave out at their earlier value, and that value. (Those that decide no
    results are left out at any value.)"""
    return {name: mark.value for name, key in keys.items() for mark in key.metadata if isinstance(mark, Added)}


def open_values(keys: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The keys of a section that digests count as a value where they are left open, and that value."""
    return {name: mark.value for name, key in keys.items() for mark in key.metadata if isinstance(mark, OpenCountsAs)}


def only_for(keys: Mapping[str, FieldInfo]) -> dict[str, OnlyFor]:
    """The keys of a section that are for one kind of field."""
    return {name: mark for name, key in keys.items() for mark in key.metadata if isinstance(mark, OnlyFor)}


def _changed(meaning: Meaning, metadata: list[Any]) -> Meaning:
    for mark in metadata:
        if isinstance(mark, Key):
            given = {f.name: getattr(mark, f.name) for f in fields(mark) if getattr(mark, f.name) is not None}
            meaning = replace(meaning, **given)
    return meaning
