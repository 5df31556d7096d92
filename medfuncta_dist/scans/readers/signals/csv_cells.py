"""Lines of a CSV file as cells: which sign separates them, and which is the decimal sign. Pure."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.errors import ScanError

QUOTED = re.compile(r'"[^"]*"')
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?|[+-]?\d+")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
"""1,234 is either."""
BLANK = " "
"""As a separator: any number of spaces."""


@dataclass(frozen=True)
class Dialect:
    """How cells and numbers are written."""

    separator: str
    decimal: str

    def cells(self, line: str) -> list[str]:
        """The cells of a line, without quotes and spaces around them."""
        return split(line, self.separator)

    def numbers(self, cells: Sequence[str]) -> list[float]:
        """The numbers in cells; ValueError where one holds none. What only Python takes for one (1_000) is none."""
        text = BLANK.join(cells)
        if "_" in text or not text.isascii() or (self.decimal == "," and "." in text):
            raise ValueError
        return [float(cell.replace(",", ".")) for cell in cells] if self.decimal == "," else list(map(float, cells))

    def number(self, cell: str) -> float:
        """The number in a cell."""
        return self.numbers([cell])[0]

    def is_number(self, cell: str) -> bool:
        """Whether a number is in a cell; nan is one."""
        try:
            self.number(cell)
        except ValueError:
            return False
        return True


def split(line: str, separator: str) -> list[str]:
    """The cells of a line."""
    if '"' in line:
        line = line if separator != BLANK else BLANK.join(line.split())
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    return line.split() if separator == BLANK else [cell.strip() for cell in line.split(separator)]


def dialect_of(lines: Sequence[str], separator: str | None, decimal: str | None) -> Dialect:
    """The dialect of a file by its first lines, none of them empty; ``separator`` and ``decimal`` where they are known.

    ScanError where a comma is a decimal sign as well as a separator of thousands.
    """
    separator = separator or _separator(lines)
    cells = [cell for line in lines for cell in split(line, separator)]
    return Dialect(separator, decimal or _decimal(cells))


def _separator(lines: Sequence[str]) -> str:
    bare = [QUOTED.sub("", line) for line in lines]
    for sign in (";", "\t"):
        if all(sign in line for line in bare):
            return sign
    tokens = [token for line in bare[-1:] for token in line.split()]
    if len(tokens) > 1 and all(DECIMAL_COMMA.fullmatch(token) for token in tokens):
        return BLANK
    return BLANK if len(tokens) > 1 and not any("," in line for line in bare) else ","


def _decimal(cells: Sequence[str]) -> str:
    commas = [cell for cell in cells if "," in cell and DECIMAL_COMMA.fullmatch(cell)]
    if not commas:
        return "."
    if any("." in cell and cell.replace(".", "", 1).lstrip("+-").isdigit() for cell in cells):
        raise ScanError("numbers with a decimal point and numbers with a comma: data.csv.decimal says which is meant")
    if all(THOUSANDS.fullmatch(cell) for cell in commas):
        raise ScanError(
            "numbers with a comma before three digits: data.csv.decimal says whether it is the decimal sign"
        )
    return ","
