"""Kubernetes quantities: ``16Gi``, ``1500m``, ``2``."""

from __future__ import annotations

import math
import re

FACTORS = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}  # fmt: skip
QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([kMGTP]i?|Ki|m)?")


def parse_quantity(quantity: object) -> float | None:
    """A quantity as a number (bytes, cores); None if it is not one."""
    found = QUANTITY.fullmatch(str(quantity))
    suffix = found.group(2) or "" if found else ""
    return float(found.group(1)) * FACTORS[suffix] if found and suffix in FACTORS else None


def format_cpus(value: float) -> str:
    """A number of CPUs as a Kubernetes quantity: ``4``, ``1500m``."""
    return str(int(value)) if float(value).is_integer() else f"{math.ceil(value * 1000)}m"


def format_gibibytes(value: float) -> str:
    """A size in GiB as a Kubernetes quantity: ``16Gi``, ``6554Mi``."""
    return f"{int(value)}Gi" if float(value).is_integer() else f"{math.ceil(value * 1024)}Mi"
