"""What a failed storage request means: whether to retry it, what caused it, and the error to raise for it."""

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
TRANSIENT_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    aiohttp.ClientError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
)
# Answers below 500 that S3 servers give to correct requests that came at the wrong moment or arrived damaged.
TRANSIENT_CODES = {
    "BadDigest",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "XAmzContentSHA256Mismatch",
}
# Answers to a conditional write whose condition is false: the object has changed, is being changed, or is gone.
UNMET_CODES = {"PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey"}
# Too many requests: the whole process then sends fewer, not only the thread that got the answer.
THROTTLING_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"}
CREDENTIAL_CODES = EXPIRED_CODES | {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
WRONG_REGION_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301"}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The machine lacks something, or its file system is not mounted. Not EIO: that may be one file on a bad sector.
MACHINE_FAILURES = NO_SPACE | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later; never for a missing object or refused credentials."""
    answer = _error_code(error)
    if answer is not None:
        code, status = answer
        return (status >= 500 and status != 501) or is_throttled(error) or code in TRANSIENT_CODES
    return isinstance(error, TRANSIENT_ERRORS)


def is_throttled(error: BaseException) -> bool:
    """Whether the store answered that it gets too many requests."""
    code, status = _error_code(error) or ("", 0)
    return status == 429 or code in THROTTLING_CODES


def retry_after_s(error: BaseException) -> float:
    """Seconds without any request that the store asks for (``Retry-After``); 0 where it asks for none."""
    client = _client_error(error)
    headers = client.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}) if client else {}
    after = str(headers.get("retry-after", ""))
    return float(after) if after.isdecimal() else 0.0


def is_machine_failure(error: OSError) -> bool:
    """Whether reading a local file failed because of this machine, not because of the file."""
    return error.errno in MACHINE_FAILURES


def refuses_credentials(error: BaseException) -> bool:
    """Whether S3 does not accept these credentials (any more), and others may work."""
    return (_error_code(error) or ("",))[0] in CREDENTIAL_CODES


def is_answer(error: BaseException) -> bool:
    """Whether the error is an answer, and the connection therefore works."""
    return _error_code(error) is not None


def may_want_tls(error: BaseException) -> bool:
    """Whether a server may have answered so because the request did not come over TLS."""
    answer = _error_code(error)
    return isinstance(error, TRANSIENT_ERRORS) if answer is None else answer[1] == 400


def is_unmet_condition(error: BaseException) -> bool:
    """Whether a conditional write was refused because the object is not in the expected state."""
    return (_error_code(error) or ("",))[0] in UNMET_CODES


def explain(error: Exception, where: str) -> MedfunctaError:
    """The error to raise. It quotes codes and classes only: texts of S3 and of the system contain object names."""
    code = (_error_code(error) or ("",))[0]
    if code == "InvalidRange":
        return IntegrityError("the object ends before the range to be read", where=where, do="run `verify`")
    if code == "NoSuchBucket":
        return StorageError("the bucket does not exist", where=where, do="create it, or correct the run file")
    if isinstance(error, MISSING):
        return ObjectMissingError("no such object", where=where, do="check the URI; `verify` lists what is missing")
    if is_transient(error):
        do = "check that this machine can reach the storage, then run the same command again"
        return DeadlineError(f"storage did not answer in time: {reason(error)}", where=where, do=do)
    if code in EXPIRED_CODES:
        do = "renew the credentials, then run the same command again: it resumes where it stopped"
        return CredentialsError(f"the credentials have expired: {reason(error)}", where=where, do=do)
    if code in CLOCK_CODES:
        do = "set the clock (chrony, systemd-timesyncd); `medfuncta-dist doctor` shows how far it is off"
        return StorageError(f"this machine's clock differs too much from the storage's: {code}", where=where, do=do)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return DiskFullError(f"a disk of this machine is full: {reason(error)}", where=where, do=_FREE_SPACE)
    if code in WRONG_REGION_CODES:
        do = "set AWS_DEFAULT_REGION to the bucket's region"
        return StorageError(f"the bucket is in another region: {reason(error)}", where=where, do=do)
    do = "check credentials, permissions and free space of the storage"
    return StorageError(f"storage refused the request: {reason(error)}", where=where, do=do)


_FREE_SPACE = "free space there (cluster.cache_gigabytes limits the shard cache), then run the same command again"


def reason(error: BaseException) -> str:
    """An error's S3 code, system error or class, without the names that its text may hold."""
    answer = _error_code(error)
    if answer is not None:
        return f"{answer[0]} (HTTP {answer[1]})"
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def _error_code(error: BaseException) -> tuple[str, int] | None:
    """S3's error code and HTTP status; None for an error that is not S3's answer."""
    if (client := _client_error(error)) is None:
        return None
    status = client.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(client.response.get("Error", {}).get("Code", "unknown")), int(status)


def _client_error(error: BaseException) -> boto.ClientError | None:
    """S3's answer; s3fs keeps it as the cause of its own error."""
    client = error if isinstance(error, boto.ClientError) else error.__cause__
    return client if isinstance(client, boto.ClientError) else None
