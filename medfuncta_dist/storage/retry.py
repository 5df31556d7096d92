"""The only layer that retries storage requests: until a deadline, with jitter, and only what can pass by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import aiohttp
from botocore import exceptions as boto
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential_jitter

from medfuncta_dist.errors import DeadlineError, IntegrityError, MedfunctaError, ObjectMissingError, StorageError

T = TypeVar("T")

MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
PASSING_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    aiohttp.ClientError,
    ConnectionError,
    TimeoutError,
)
# Answers below 500 that S3 servers give to requests which are right, but came at the wrong moment or arrived damaged.
PASSING_CODES = {
    "BadDigest",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "XAmzContentSHA256Mismatch",
}
# Answers to a write whose condition does not hold: the object has changed, is being changed, or is gone.
UNMET_CODES = {"PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey"}
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0


def persist(request: Callable[[float], T], *, where: str, deadline_s: float) -> T:
    """Call ``request(seconds left)`` until it succeeds, fails for good, or ``deadline_s`` is over.

    Raises ObjectMissingError, DeadlineError or StorageError, naming ``where``, the attempts and the time spent.
    """
    started, attempts = time.monotonic(), 0

    def attempt() -> T:
        nonlocal attempts
        attempts += 1
        return request(max(deadline_s - (time.monotonic() - started), FIRST_WAIT_S))

    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop_before_delay(deadline_s),
        wait=wait_exponential_jitter(initial=FIRST_WAIT_S, max=LONGEST_WAIT_S, jitter=FIRST_WAIT_S),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except MedfunctaError as error:
        raise type(error)(error.what, where=where, do=error.do) from error
    except Exception as error:
        spent = f"{attempts} attempt{'s' if attempts > 1 else ''} in {time.monotonic() - started:.1f} s"
        raise explain(error, f"{where} ({spent})") from error


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later. Never for a missing object or refused credentials."""
    answer = _answer(error)
    if answer is not None:
        code, status = answer
        return (status >= 500 and status != 501) or status == 429 or code in PASSING_CODES
    return isinstance(error, PASSING_ERRORS)


def is_unmet_condition(error: BaseException) -> bool:
    """Whether a conditional write was refused because the object is not, or no longer, in that state."""
    return (_answer(error) or ("",))[0] in UNMET_CODES


def explain(error: Exception, where: str) -> MedfunctaError:
    """The error in words. It quotes codes and classes only: texts of S3 and of the system repeat object names."""
    code = (_answer(error) or ("",))[0]
    if code == "InvalidRange":
        return IntegrityError("the object ends before the range to be read", where=where, do="run `verify`")
    if code == "NoSuchBucket":
        return StorageError("the bucket does not exist", where=where, do="create it, or correct the run file")
    if isinstance(error, MISSING):
        return ObjectMissingError("no such object", where=where, do="check the URI; `verify` lists what is missing")
    if is_passing(error):
        do = "check that the storage answers from this machine, then run the same command again"
        return DeadlineError(f"storage did not answer in time: {reason(error)}", where=where, do=do)
    do = "check credentials, permissions and free space of the storage"
    return StorageError(f"storage refused the request: {reason(error)}", where=where, do=do)


def reason(error: BaseException) -> str:
    """An error's S3 code, system error or class, without the names that its text may hold."""
    answer = _answer(error)
    if answer is not None:
        return f"{answer[0]} (HTTP {answer[1]})"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def refuse_above(limit: int, size: int) -> None:
    """IntegrityError when an object is larger than its reader can expect: it is not what should be there."""
    if size > limit:
        raise IntegrityError(f"an object has {size} bytes where at most {limit} were expected")


def _answer(error: BaseException) -> tuple[str, int] | None:
    """S3's error code and HTTP status; s3fs keeps the original answer as the cause of its own error."""
    client = error if isinstance(error, boto.ClientError) else error.__cause__
    if not isinstance(client, boto.ClientError):
        return None
    status = client.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(client.response.get("Error", {}).get("Code", "unknown")), int(status)
