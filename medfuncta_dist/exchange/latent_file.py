"""One latent of the public code: a file of ``{"modulations": (P,), "label": …}``, read with all suspicion, and written.

The public code writes a slice of a batch: the file then holds the whole batch's numbers, of which it uses P.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medfuncta_dist.errors import ScanError
from medfuncta_dist.exchange.torch_file import RefusedFileError, load

LARGEST_FILE = 2**26
"""Bytes: a batch of a thousand latents of 16 384 numbers."""
MOST_LABELS = 4096
UNUSED = "its file is not used: "
"""How every reason begins that another file could do away with."""
LATENT, LABEL = "modulations", "label"
WHOLE = ("uint8", "int8", "int16", "int32", "int64", "bool")
"""Types of labels. ``medmnist`` gives uint8 or int64, others int64."""
PYTHON = "int"
"""Stands for such a type where a label is a whole number of Python, or a list of these, and no tensor."""
MIXED = "mixed"
"""Stands for the form of labels that have several: nothing tells afterwards which label had which."""
REAL = (torch.float32, torch.float16, torch.bfloat16)
"""Types of latents that float32 holds exactly."""
NO_LATENT = "it holds no latent and label, as the public code writes them"
OTHER_SIZE = "its latent has another size than the network's"
OTHER_TYPE = "its latent is not of type float32, float16 or bfloat16"
OTHER_LABEL = "its label is no whole number, or list of whole numbers, of 32 bits"


@dataclass(frozen=True)
class LabelForm:
    """How a file holds its label: the type of the numbers, and their axes (0: one number by itself, 1: several)."""

    dtype: str = "int64"
    axes: int = 1

    def to_text(self) -> str:
        """For a part's metadata."""
        return f"{self.dtype} {self.axes}"

    @classmethod
    def of_text(cls, text: str) -> LabelForm:
        """The inverse; the default for a text that is none."""
        dtype, _, axes = text.partition(" ")
        return cls(dtype, int(axes)) if dtype in (*WHOLE, PYTHON) and axes in ("0", "1") else cls()


@dataclass(frozen=True)
class PublicLatent:
    """What a file holds."""

    numbers: Float[np.ndarray, " latent"]
    """float32."""
    labels: list[int]
    form: LabelForm


def parse_latent(data: bytes, size: int) -> PublicLatent:
    """The latent in a file's bytes, of ``size`` numbers. ScanError: the file cannot be used, and why."""
    try:
        loaded = load(data)
    except RefusedFileError as error:
        raise ScanError(error.what) from error
    found = loaded if isinstance(loaded, Mapping) else {}
    numbers, label = found.get(LATENT), found.get(LABEL)
    if not isinstance(numbers, Tensor) or LABEL not in found:
        raise ScanError(NO_LATENT)
    if numbers.shape != (size,):
        raise ScanError(OTHER_SIZE)
    if numbers.dtype not in REAL:
        raise ScanError(OTHER_TYPE)
    labels, form = _labels(label)
    return PublicLatent(numbers.detach().to(torch.float32, copy=True).numpy(), labels, form)


def _labels(label: Any) -> tuple[list[int], LabelForm]:
    """A label as a list of numbers, and how it was given."""
    values: list[Any]
    if isinstance(label, Tensor):
        form = LabelForm(str(label.dtype).removeprefix("torch."), label.ndim)
        if form.dtype not in WHOLE or label.ndim > 1 or label.numel() > MOST_LABELS:
            raise ScanError(OTHER_LABEL)
        values = [int(value) for value in label.tolist()] if label.ndim else [int(label)]
    else:
        form = LabelForm(PYTHON, 1 if isinstance(label, list) else 0)
        values = label if isinstance(label, list) else [label]
    whole = all(type(one) is int and -(2**31) <= one < 2**31 for one in values)
    if len(values) > MOST_LABELS or not whole:
        raise ScanError(OTHER_LABEL)
    return values, form


def latent_bytes(numbers: Float[np.ndarray, " latent"], labels: list[int], form: LabelForm) -> bytes:
    """The file of a latent, as the public code writes and reads it."""
    alone = form.axes == 0 and len(labels) == 1
    label: Any = labels[0] if alone else labels
    if form.dtype != PYTHON:
        label = torch.tensor(label, dtype=getattr(torch, form.dtype))
    buffer = io.BytesIO()
    torch.save({LATENT: torch.from_numpy(numbers.copy()), LABEL: label}, buffer)
    return buffer.getvalue()
