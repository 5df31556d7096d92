"""The section ``data.table`` of the run file: what the owner's table says about scans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medfuncta_dist.config.section import Section

By = Literal["path", "series", "study", "patient", "instance", "key"]


class Label(Section):
    """A column of labels and its type. Without ``categories`` or ``bins``: whole numbers, several with spaces
    between."""

    column: str
    """The table's column."""
    categories: Annotated[list[str], Field(min_length=1)] | None = None
    """The texts that the column holds; a scan's label is the place of its text here, from 0. Any other is refused."""
    bins: Annotated[list[float], Field(min_length=1)] | None = None
    """Rising limits, for a column of numbers: a scan's label is how many of them are at most its number. Ages with
    `[18, 65]` give 0, 1 and 2."""

    @model_validator(mode="after")
    def _one_type(self) -> Label:
        if self.categories is not None and self.bins is not None:
            raise ValueError("give categories (of texts) or bins (of numbers), not both")
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise ValueError("categories has a text twice")
        if self.bins is not None and any(low >= high for low, high in zip(self.bins, self.bins[1:], strict=False)):
            raise ValueError("bins must rise")
        return self


class Table(Section):
    """Labels, patients and splits from the owner's table, a row for each of what ``by`` names."""

    path: str
    """A CSV file (UTF-8 with a header; commas, semicolons or tabs) or a Parquet file; a path or an s3:// URI."""
    by: By = "path"
    """What a row is about: the `path` of a source below the fixed part of `data.source`, a DICOM `series`, `study` or
    `instance` (its UID), a `patient` (the Patient ID of DICOM files, a BIDS `sub-*`, an nnU-Net case), or the `key` of
    a scan. UIDs and paths stay in the private folder."""
    column: str | None = None
    """The table's column that holds it. Default: the name in ``by``."""
    issuer: str | None = None
    """With ``by: patient``: the column of the Patient ID's issuer, where DICOM files name one."""
    group: str | None = None
    """The column that names the patient: all scans of one are in one split. Default: the patient is as ``data.group``
    says."""
    split: str | None = None
    """The column of splits, where they are given."""
    label: str | Label | list[str | Label] | None = None
    """The column of labels, or several: they replace those that a file has."""
    without_row: Literal["refuse", "keep"] = "refuse"
    """What becomes of sources without a row. ``keep`` packs them as without a table, and is for tables of labels alone:
    a patient in some rows only could be in two splits."""
    copies: Literal["refuse", "first"] = "refuse"
    """Of sources with the same bytes, one is packed. Where their rows tell different patients, splits or labels,
    ``refuse`` packs nothing, and ``first`` takes the row of the one that is packed."""

    @model_validator(mode="after")
    def _something(self) -> Table:
        if self.group is None and self.split is None and not self.label:
            raise ValueError("name at least one column: group, split or label")
        if self.without_row == "keep" and (self.group is not None or self.split is not None):
            raise ValueError("without_row: keep is for a table of labels alone: with group or split, list every source")
        if self.issuer is not None and self.by != "patient":
            raise ValueError("issuer belongs to a Patient ID: it needs by: patient")
        return self

    @property
    def labels(self) -> list[Label]:
        """The columns of labels."""
        listed = self.label if isinstance(self.label, list) else [] if self.label is None else [self.label]
        return [Label(column=one) if isinstance(one, str) else one for one in listed]
