"""What a probe asks of scans: their class, several labels at once, or a measurement. Pure.

=========  =====================  =================================================================
kind       answers of scans       predictions
=========  =====================  =================================================================
classes    (scan), any integers   (scan, class): probabilities, in the order of the sorted classes
labels     (scan, label), 0 or 1  (scan, label): the probability that the label is 1
target     (scan), numbers        (scan): numbers in the target's unit
=========  =====================  =================================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Shaped

from medfuncta_dist.errors import RunFileError

Kind = Literal["classes", "labels", "target"]
ALL = "all"
MOST_CLASSES = 100
"""A confusion matrix of more could not be read, and each class would have a handful of scans."""

Answers: TypeAlias = Shaped[np.ndarray, "scan ..."]


@dataclass(frozen=True)
class Question:
    """``places``: of the labels, or of the target, in each scan's list; empty for all labels."""

    kind: Kind
    places: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """For people."""
        if self.kind == "target":
            return f"target {self.places[0]}"
        return f"label {self.places[0]}" if self.kind == "classes" else f"labels {_listed(self.places)}"

    def of(self, labels: int) -> Question:
        """The same question of scans with so many labels: ``all`` becomes their places."""
        return self if self.places else replace(self, places=tuple(range(labels)))

    def answer(self, values: Sequence[float]) -> tuple[float, ...] | None:
        """A scan's answers, of its labels or its targets; None where it lacks one of them."""
        if not values or max(self.places, default=0) >= len(values):
            return None
        return tuple(values[place] for place in self.places)


def question_of(label: str | int | None, target: int | None = None) -> Question:
    """``label``: a place (``0``), several (``0,3``) or ``all``; ``target``: a place. Neither: the first label.

    RunFileError where it is something else, or both are given.
    """
    if target is not None:
        if label is not None:
            raise RunFileError("a probe asks for a label or for a target", where="--label, --target", do="give one")
        return Question("target", (target,))
    text = "0" if label is None else str(label).strip()
    if text == ALL:
        return Question("labels")
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        do = "a place from 0, several as 0,3, or `all`"
        raise RunFileError(f"{text!r} names no label", where="--label", do=do)
    places = tuple(dict.fromkeys(int(one) for one in text.split(",")))
    return Question("classes" if len(places) == 1 else "labels", places)


def why_no_question(question: Question, train: Answers, *others: Answers) -> str | None:
    """Why nothing can be learned from the training scans' answers, or asked of others; None where something can."""
    if question.kind == "labels":
        if not all(np.isin(answers, (0, 1)).all() for answers in (train, *others)):
            return "several labels are asked for at once, and they are not all 0 or 1"
        varied = bool((train.min(axis=0) != train.max(axis=0)).any())
    else:
        varied = bool(train.min() != train.max())
    if not varied:
        return "all of them have the same label, and a classifier needs two"
    if question.kind == "classes" and len(np.unique(train)) > MOST_CLASSES:
        return f"they have more than {MOST_CLASSES} classes"
    return None


def _listed(places: Sequence[int]) -> str:
    return ", ".join(map(str, places)) or "0 and all after it"
