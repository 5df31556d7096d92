"""Inside a submitted job: what no retry can mend ends every retry at once, and nothing else does."""

from __future__ import annotations

import pytest

from medfuncta_dist.config.submission_id import JOB_VARIABLE
from medfuncta_dist.errors import (
    IntegrityError,
    LimitReachedError,
    MedfunctaError,
    QuarantineLimitError,
    RunFileError,
    RunHeldError,
)
from medfuncta_dist.run.terminal_record import recording_final_failure
from medfuncta_dist.storage.object_store import ObjectStore

FINAL = [
    RunFileError("wrong", where="key", do="mend"),
    QuarantineLimitError("many", where="x", do="look"),
    LimitReachedError("2 of 2 hours", do="raise it"),
]
PASSING = [MedfunctaError("other"), RunHeldError("held"), KeyboardInterrupt(), ValueError("bug")]


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def tried(store: ObjectStore, error: BaseException | None) -> BaseException | None:
    """How one try ends that would end so by itself."""
    try:
        with recording_final_failure(store, "small"):
            if error is not None:
                raise error
    except BaseException as ended:
        return ended
    return None


@pytest.mark.parametrize("error", FINAL, ids=str)
def test_a_retry_ends_with_the_first_ones_words_and_code(store, monkeypatch, error):
    monkeypatch.setenv(JOB_VARIABLE, "job-1")
    assert tried(store, error) is error
    again = tried(store, None)
    assert type(again) is type(error)
    assert (again.what, again.where, again.do, again.exit_code) == (error.what, error.where, error.do, error.exit_code)


def test_a_new_submission_starts_afresh(store, monkeypatch):
    monkeypatch.setenv(JOB_VARIABLE, "job-1")
    tried(store, FINAL[0])
    monkeypatch.setenv(JOB_VARIABLE, "job-2")
    assert tried(store, None) is None


@pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__)
def test_what_a_retry_may_mend_is_retried(store, monkeypatch, error):
    monkeypatch.setenv(JOB_VARIABLE, "job-1")
    assert tried(store, error) is error
    assert tried(store, None) is None
    assert store.list("") == []


@pytest.mark.parametrize("outside", [None, ""])
def test_outside_of_a_job_nothing_is_recorded(store, monkeypatch, outside):
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    if outside is not None:
        monkeypatch.setenv(JOB_VARIABLE, outside)
    tried(store, FINAL[0])
    assert tried(store, None) is None
    assert store.list("") == []


def test_a_storage_that_can_not_take_the_record_does_not_hide_the_error(tmp_path, monkeypatch):
    monkeypatch.setenv(JOB_VARIABLE, "job-1")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "small").write_text("a file where a folder should be")
    assert isinstance(tried(ObjectStore(str(tmp_path)), FINAL[0]), MedfunctaError)


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "Job", "x" * 64, "-a"])
def test_an_id_that_is_no_name_is_refused(store, monkeypatch, name):
    monkeypatch.setenv(JOB_VARIABLE, name)
    with pytest.raises(RunFileError, match="not a submission's id"), recording_final_failure(store, "small"):
        pass


def test_another_versions_error_keeps_its_code(store, monkeypatch):
    class LaterError(IntegrityError):
        """Of a version to come."""

    monkeypatch.setenv(JOB_VARIABLE, "job-1")
    tried(store, LaterError("damaged", where="x", do="y"))
    again = tried(store, None)
    assert type(again) is IntegrityError
    assert again.what == "damaged"
