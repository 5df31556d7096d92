"""The only layer that retries storage requests: until a deadline, with jitter, and only what can pass by itself."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

import aiohttp
import urllib3
from botocore import exceptions as boto
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_exponential_jitter

from medfuncta_dist.errors import (
    CredentialsError,
    DeadlineError,
    DiskFullError,
    IntegrityError,
    MedfunctaError,
    ObjectMissingError,
    StorageError,
)
from medfuncta_dist.storage.pace import PACE

T = TypeVar("T")

MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
PASSING_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    aiohttp.ClientError,
    urllib3.exceptions.HTTPError,
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
# "You ask too often": then the whole process asks less, not only the thread that was told so.
THROTTLING_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"}
CREDENTIAL_CODES = EXPIRED_CODES | {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
ELSEWHERE_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301"}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
ATTEMPT_S = 30.0
"""One attempt may take this long, and its transfer on top."""
SLOWEST_BYTES_S = 2e6
"""Transfers get their size at this rate (bytes a second): below it a connection is given up for a new one."""


def persist(request: Callable[[float], T], *, where: str, deadline_s: float) -> T:
    """Call ``request(seconds left)`` until it succeeds, fails for good, or ``deadline_s`` is over.

    Raises ObjectMissingError, DeadlineError or StorageError, naming ``where``, the attempts and the time spent.
    """
    started, attempts = time.monotonic(), 0

    def attempt() -> T:
        nonlocal attempts
        attempts += 1
        PACE.turn(deadline_s - (time.monotonic() - started))
        try:
            found = request(max(deadline_s - (time.monotonic() - started), FIRST_WAIT_S))
        except Exception as error:
            _slow_down(error)
            raise
        PACE.answered()
        return found

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
        raise explain(error, f"{where} ({spent}{_rank()})") from error


def attempt_s(size: int) -> float:
    """Seconds that one attempt to move ``size`` bytes may take."""
    return ATTEMPT_S + size / SLOWEST_BYTES_S


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later. Never for a missing object or refused credentials."""
    answer = _answer(error)
    if answer is not None:
        code, status = answer
        return (status >= 500 and status != 501) or status == 429 or code in PASSING_CODES
    return isinstance(error, PASSING_ERRORS)


def refuses_credentials(error: BaseException) -> bool:
    """Whether S3 does not know these credentials (any more): others may do."""
    return (_answer(error) or ("",))[0] in CREDENTIAL_CODES


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
    if code in EXPIRED_CODES:
        do = "renew the credentials, then run the same command again: it goes on where it stopped"
        return CredentialsError(f"the credentials have expired: {reason(error)}", where=where, do=do)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return DiskFullError(f"a disk of this machine is full: {reason(error)}", where=where, do=_MAKE_ROOM)
    if code in ELSEWHERE_CODES:
        do = "set AWS_DEFAULT_REGION to the bucket's region"
        return StorageError(f"the bucket is in another region: {reason(error)}", where=where, do=do)
    do = "check credentials, permissions and free space of the storage"
    return StorageError(f"storage refused the request: {reason(error)}", where=where, do=do)


_MAKE_ROOM = "make room there (cluster.cache_gigabytes bounds the cache of shards), then run the same command again"


def reason(error: BaseException) -> str:
    """An error's S3 code, system error or class, without the names that its text may hold."""
    answer = _answer(error)
    if answer is not None:
        return f"{answer[0]} (HTTP {answer[1]})"
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def refuse_above(limit: int, size: int) -> None:
    """IntegrityError when an object is larger than its reader can expect: it is not what should be there."""
    if size > limit:
        what = f"an object has {size} bytes where at most {limit} were expected"
        raise IntegrityError(what, do="see what lies there, and restore the object from a backup")


def _slow_down(error: BaseException) -> None:
    """Tell the pace when the store asks for less, and for how long it wants to be left alone."""
    client, (code, status) = _client_error(error), _answer(error) or ("", 0)
    if client is not None and (code in THROTTLING_CODES or status == 429):
        after = str(client.response["ResponseMetadata"].get("HTTPHeaders", {}).get("retry-after", ""))
        PACE.refused(float(after) if after.isdecimal() else 0.0)


def _rank() -> str:
    """Which of the training workers this is; "" in any other process."""
    rank = os.environ.get("RANK", "")
    return f", rank {rank}" if rank.isdecimal() else ""


def _answer(error: BaseException) -> tuple[str, int] | None:
    """S3's error code and HTTP status."""
    if (client := _client_error(error)) is None:
        return None
    status = client.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(client.response.get("Error", {}).get("Code", "unknown")), int(status)


def _client_error(error: BaseException) -> boto.ClientError | None:
    """What S3 answered; s3fs keeps it as the cause of its own error."""
    client = error if isinstance(error, boto.ClientError) else error.__cause__
    return client if isinstance(client, boto.ClientError) else None
