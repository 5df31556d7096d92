"""An examination goes on whatever it meets."""

from __future__ import annotations

from medfuncta_dist.doctor.check import Check, Finding, Outcome, passed, run_checks
from medfuncta_dist.errors import StorageError


def test_an_error_of_ours_is_a_bad_finding_in_its_own_words_and_any_other_ends_nothing() -> None:
    def ours() -> Finding:
        raise StorageError("the bucket does not exist", where="s3://b", do="create it")

    def foreign() -> Finding:
        raise ValueError("odd")

    first, second, third = run_checks([Check("a", ours), Check("b", foreign), Check("c", lambda: passed("fine"))])
    assert first.finding == Finding(Outcome.FAILED, "the bucket does not exist (s3://b)", "create it")
    assert (second.finding.state, second.finding.what) == (Outcome.FAILED, "ValueError: odd")
    assert third.finding.state is Outcome.PASSED
    assert str(first).splitlines() == ["failed   a: the bucket does not exist (s3://b)", "         → create it"]
