"""What all sections of the run file share: strictness, what their keys mean, and the kinds of values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from medfuncta_dist.config.key_docstrings import key_docstrings
from medfuncta_dist.config.keys import Meaning, added, meanings, open_values

NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


def _named(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("expected at most 40 lowercase letters, digits and dashes, starting with a letter")
    return value


def _bare_word(value: Any) -> Any:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


PositiveInt = Annotated[int, Field(gt=0)]
NaturalInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NaturalFloat = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, AfterValidator(_named)]
SPLIT = r"^[a-z][a-z0-9_]{0,31}$"
Split = Annotated[str, Field(pattern=SPLIT)]
BARE_WORD = BeforeValidator(_bare_word)
"""For a choice of words with on or off among them: YAML 1.1 reads a bare on or off as true or false."""


class Section(BaseModel):
    """A part of the run file: unknown keys are errors, values are never silently converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    MEANING: ClassVar[Meaning] = Meaning()
    """What every key of this section means for a run that does not say otherwise. A section inside a section means
    what the key that holds it means."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON schema, with the text below each key as its description."""
        schema = handler(core)
        keys = handler.resolve_ref_schema(schema)["properties"]
        for name, text in cls.docstrings().items():
            keys[name].setdefault("description", text)
        return schema

    @classmethod
    def docstrings(cls) -> dict[str, str]:
        """The texts below the keys, those of the classes that this one extends first."""
        texts: dict[str, str] = {}
        for kind in reversed(cls.__mro__):
            if issubclass(kind, Section):
                texts |= key_docstrings(kind)
        return {name: text for name, text in texts.items() if name in cls.model_fields}

    @classmethod
    def meanings(cls) -> dict[str, Meaning]:
        """What each key means for a run."""
        return meanings(cls.model_fields, cls.MEANING)

    @classmethod
    def keys_where(cls, wanted: Callable[[Meaning], bool]) -> tuple[str, ...]:
        """The keys whose meaning is wanted, in the order of the section."""
        return tuple(name for name, meaning in cls.meanings().items() if wanted(meaning))

    def part(self, wanted: Callable[[Meaning], bool]) -> dict[str, Any]:
        """These keys with their values, as JSON has them."""
        return self.model_dump(mode="json", include=set(self.keys_where(wanted)))

    def digested(self, wanted: Callable[[Meaning], bool]) -> dict[str, Any]:
        """The same as a digest covers them: without keys that came later (``Added``) and have their earlier value or
        decide nothing, and with what an open key counts as (``OpenCountsAs``)."""
        keys, deciding = type(self).model_fields, self.keys_where(lambda key: key.decides_results)
        left_out = {name for name, old in added(keys).items() if getattr(self, name) == old or name not in deciding}
        counted = {name: value for name, value in open_values(keys).items() if getattr(self, name) is None}
        return {name: counted.get(name, value) for name, value in self.part(wanted).items() if name not in left_out}
