from __future__ import annotations

import errno
import logging
import warnings
from pathlib import Path

import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers import (
    reader,
    reader_registry,  # noqa: F401 - registers the libraries
)
from medfuncta_dist.scans.readers.reader import check_size, refusing
from medfuncta_dist.scans.scan import MAX_VALUES
from tests.writers import PATIENT


def fail_loudly() -> None:
    with refusing("damaged"):
        logging.getLogger("pydicom").warning(PATIENT)
        warnings.warn(PATIENT, stacklevel=1)
        raise ValueError(PATIENT)


def test_a_librarys_words_never_get_out(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ScanError) as error:
        fail_loudly()
    assert error.value.what == "damaged"
    assert PATIENT not in str(error.value)
    assert error.value.__suppress_context__
    assert not caplog.records
    assert not recwarn.list


def test_loggers_speak_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    with refusing("damaged"):
        pass
    logging.getLogger("pydicom").warning("hello")
    assert caplog.messages == ["hello"]


def test_the_systems_error_keeps_its_number_and_loses_its_path(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"error 2\b") as error, refusing("damaged"):
        (tmp_path / PATIENT).open()
    assert PATIENT not in str(error.value)


def test_own_refusals_and_lack_of_memory_pass_through() -> None:
    with pytest.raises(ScanError, match="inner"), refusing("outer"):
        raise ScanError("inner")
    with pytest.raises(MemoryError), refusing("outer"):
        raise MemoryError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ESTALE])
def test_what_the_machine_lacks_passes_through(number: int) -> None:
    with pytest.raises(OSError, match="lacking"), refusing("damaged"):
        raise OSError(number, "lacking")


@pytest.mark.parametrize("shape", [(0,), (4, -1), (2**40, 2**40), (MAX_VALUES + 1,)])
def test_absurd_sizes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ScanError, match="the header declares"):
        check_size(shape)


def test_size() -> None:
    assert check_size((512, 512, 2048)) == MAX_VALUES


def test_the_log_of_a_readers_library_is_suppressed_only_while_refusing(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("pydicom", "pydicom.pixels.decoders.base", "openjpeg.decode", "pylibjpeg", "nibabel.global", "PIL"):
        with refusing("damaged"):
            logging.getLogger(name).warning("Doe^Jane")
        assert not caplog.records
        logging.getLogger(name).warning("after")
        assert [record.message for record in caplog.records] == ["after"]
        caplog.clear()


def test_a_logger_that_a_library_makes_while_it_reads_is_suppressed_too(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with refusing("damaged"):
        logger = logging.getLogger("PIL.OfAFormatThatWasNotImportedYet")
        logger.debug(PATIENT)
        logger.warning(PATIENT)
    assert not caplog.records
    logger.debug("after")
    assert caplog.messages == ["after"]
    assert PATIENT not in capsys.readouterr().err


def test_a_librarys_logger_keeps_its_handlers() -> None:
    logger, handler = logging.getLogger("PIL"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with refusing("damaged"):
            assert handler not in logger.handlers
        assert handler in logger.handlers
        assert logger.propagate
    finally:
        logger.removeHandler(handler)


def test_loggers_are_not_searched_again_while_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV file asks for each of its rows."""
    with refusing("damaged"):
        pass
    searched = reader._loggers_of.cache_info().misses
    for _ in range(50):
        with refusing("damaged"):
            pass
    assert reader._loggers_of.cache_info().misses == searched
    monkeypatch.setitem(logging.root.manager.loggerDict, "pydicom.new_part", logging.Logger("pydicom.new_part"))
    with refusing("damaged"):
        assert logging.getLogger("pydicom.new_part").disabled
    assert not logging.getLogger("pydicom.new_part").disabled
