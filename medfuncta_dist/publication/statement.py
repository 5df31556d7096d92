"""What only the owner can say of a published data set: its licence, what it is for, and what it is not for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from medfuncta_dist.config.section import Section
from medfuncta_dist.errors import RunFileError

LARGEST = 2**16
"""Bytes of the file; it holds a few paragraphs."""
LICENCE = re.compile(r"[a-z0-9]([a-z0-9.+-]{0,62}[a-z0-9])?")
OTHER = "other"
DO = "write licence and intended_use into the file of --statement, or give --licence and --intended-use"


def _one_line(text: str) -> str:
    if "\n" in text:
        raise ValueError("expected one line")
    return text


Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]


class Statement(Section):
    """The owner's words, as they stand in the data card."""

    licence: Line
    """The licence's identifier in lower case, as Hugging Face lists them: cc-by-4.0, cc-by-nc-sa-4.0; or other."""
    licence_link: Line | None = None
    """Where the text of the licence is; needed where ``licence`` is other."""
    intended_use: Text
    """What the data set may be used for, and by whom."""
    title: Line = "Latents of medical scans"
    description: Text | None = None
    limits: Text | None = None
    """What it must not be used for, or cannot do, beside what holds for all latents."""
    labels: Text | None = None
    """What the labels mean, where they are published."""
    source: Text | None = None
    """Where the scans come from, and under which permission they are given away."""

    @model_validator(mode="after")
    def _named(self) -> Statement:
        if not LICENCE.fullmatch(self.licence):
            raise ValueError("licence: expected an identifier such as cc-by-4.0, or other with a licence_link")
        if self.licence == OTHER and self.licence_link is None:
            raise ValueError("licence_link is missing: licence is other")
        return self


def statement_of(file: Path | None, given: Mapping[str, str | None]) -> Statement:
    """The statement in a YAML file, with the keys of ``given`` that are not None over it.

    Raises:
        RunFileError: licence or intended use is missing, or the file is not such a statement.
    """
    said = ({} if file is None else _read(file)) | {key: value for key, value in given.items() if value is not None}
    where = "--statement" if file is None else str(file)
    missing = [key for key in ("licence", "intended_use") if not said.get(key)]
    if missing:
        raise RunFileError(f"the owner has not said: {' and '.join(missing)}", where=where, do=DO)
    try:
        return Statement.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunFileError(f"{key + ': ' if key else ''}{first['msg']}", where=where, do=DO) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST + 1)
        said = yaml.safe_load(data) if len(data) <= LARGEST else None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RunFileError(f"the statement cannot be read: {type(error).__name__}", where=str(file), do=DO) from None
    if not isinstance(said, dict):
        what = f"the statement is no YAML mapping of at most {LARGEST // 1024} KiB"
        raise RunFileError(what, where=str(file), do=DO)
    return said
