"""What a failed storage request means: whether it may pass by itself, whom it concerns, and how it is told."""

from __future__ import annotations

import errno
import os

import aiohttp
import urllib3
from botocore import exceptions as boto

from medfuncta_dist.errors import (
    CredentialsError,
    DeadlineError,
    DiskFullError,
    IntegrityError,
    MedfunctaError,
    ObjectMissingError,
    StorageError,
)

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
# A machine that lacks something, or whose file system is away. Not EIO: that may be one file on a bad sector.
LACKING = NO_SPACE | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later. Never for a missing object or refused credentials."""
    answer = _answer(error)
    if answer is not None:
        code, status = answer
        return (status >= 500 and status != 501) or is_throttled(error) or code in PASSING_CODES
    return isinstance(error, PASSING_ERRORS)


def is_throttled(error: BaseException) -> bool:
    """Whether the store says that it is asked too often."""
    code, status = _answer(error) or ("", 0)
    return status == 429 or code in THROTTLING_CODES


def wanted_pause_s(error: BaseException) -> float:
    """Seconds for which the store wants to be left alone (``Retry-After``); 0 where it tells none."""
    client = _client_error(error)
    headers = client.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}) if client else {}
    after = str(headers.get("retry-after", ""))
    return float(after) if after.isdecimal() else 0.0


def is_of_the_machine(error: OSError) -> bool:
    """Whether a local file could not be read for reasons that say nothing about the file."""
    return error.errno in LACKING


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
