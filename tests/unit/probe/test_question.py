from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.probe.question import Question, question_of, why_no_question


def test_a_label_a_few_or_all_of_them_or_a_target_is_asked_for():
    assert question_of(None) == question_of("0") == question_of(0) == Question("classes", (0,))
    assert question_of("3,0,3") == Question("labels", (3, 0))
    assert question_of("all") == Question("labels")
    assert question_of("all").of(2).places == (0, 1)
    assert question_of(None, 2) == Question("target", (2,))


@pytest.mark.parametrize("text", ["", "one", "-1", "1,", "0.5"])
def test_what_names_no_label_is_refused(text: str):
    with pytest.raises(RunFileError, match="names no label"):
        question_of(text)


def test_a_label_and_a_target_at_once_are_refused():
    with pytest.raises(RunFileError, match="a label or for a target"):
        question_of("0", 1)


def test_a_scan_without_one_of_the_labels_gives_no_answer():
    question = question_of("0,2")
    assert question.answer([1, 0, 1]) == (1, 1)
    assert question.answer([1, 0]) is None
    assert question.answer([]) is None


def test_what_cannot_be_learned_is_told():
    one, several, target = Question("classes", (0,)), Question("labels", (0, 1)), Question("target", (0,))
    assert why_no_question(one, np.array([3, 3])) == "all of them have the same label, and a classifier needs two"
    assert why_no_question(one, np.arange(101)) == "they have more than 100 classes"
    assert "not all 0 or 1" in str(why_no_question(several, np.array([[0, 2], [1, 0]])))
    assert why_no_question(several, np.array([[0, 1], [0, 0]])) is None
    assert "not all 0 or 1" in str(why_no_question(several, np.array([[0, 1], [0, 0]]), np.array([[0, 2]])))
    assert why_no_question(target, np.array([0.5, 0.5])) is not None
    assert why_no_question(one, np.array([0, 1])) is why_no_question(target, np.arange(500.0)) is None
