"""Objects in S3, one request at a time: no retries, no caches, and a time limit on every request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from s3fs import S3FileSystem

from medfuncta_dist.errors import UnreachableError
from medfuncta_dist.storage.connection_faults import ConnectionFault, failed_url, find_fault, only_with_tls
from medfuncta_dist.storage.first_contact import speaks_tls, unreachable
from medfuncta_dist.storage.request_failures import is_answer, is_unmet_condition, may_want_tls, refuses_credentials
from medfuncta_dist.storage.retry import attempt_limit_s, require_at_most
from medfuncta_dist.storage.s3.s3_client import S3Client, client_with_new_credentials, s3_client

T = TypeVar("T")


class S3Objects:
    """Paths are relative to ``root`` ("bucket/prefix"); errors are s3fs' own, which retry.py handles."""

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, path: str, limit: int | None, seconds: float) -> bytes:
        return self.read_tagged(path, limit, seconds)[0]

    def read_tagged(self, path: str, limit: int | None, seconds: float) -> tuple[bytes, str]:
        bucket, key = self._address(path)

        def get(client: S3Client) -> tuple[bytes, str]:
            with client.get(bucket, key, seconds) as response:
                if limit is not None:
                    require_at_most(limit, response.size)
                return response.read(), response.tag

        return self._with_credentials(get, seconds)

    def read_range(self, path: str, start: int, length: int, seconds: float) -> bytes:
        bucket, key = self._address(path)
        headers = {"Range": f"bytes={start}-{start + length - 1}"}

        def get(client: S3Client) -> bytes:
            with client.get(bucket, key, seconds, headers) as response:
                require_at_most(length, response.size)  # a server without ranges answers with the whole object
                return response.read()

        return self._with_credentials(get, seconds)

    def write(self, path: str, data: bytes, seconds: float) -> None:
        self._run(lambda s3: s3._pipe_file(self._key(path), data), min(seconds, attempt_limit_s(len(data))))

    def write_if(self, path: str, data: bytes, tag: str | None, seconds: float) -> str | None:
        bucket, key = self._address(path)
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            answer = self._run(
                lambda s3: s3._call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition), seconds
            )
        except OSError as error:
            if is_unmet_condition(error):
                return None
            raise
        return str(answer["ETag"])

    def upload(self, local: Path, path: str, seconds: float) -> None:
        self._run(lambda s3: s3._put_file(str(local), self._key(path)), seconds)

    def download(self, path: str, local: Path, limit: int | None, seconds: float) -> str:
        bucket, key = self._address(path)

        def get(client: S3Client) -> str:
            digest = sha256()
            with client.get(bucket, key, seconds) as response, local.open("wb") as file:
                if limit is not None:
                    require_at_most(limit, response.size)
                for piece in response.chunks():
                    digest.update(piece)
                    file.write(piece)
            return digest.hexdigest()

        return self._with_credentials(get, seconds)

    def size(self, path: str, seconds: float) -> int:
        return self.status(path, seconds)[0]

    def status(self, path: str, seconds: float) -> tuple[int, str]:
        bucket, key = self._address(path)
        head = self._run(lambda s3: s3._call_s3("head_object", Bucket=bucket, Key=key), seconds)
        return int(head["ContentLength"]), str(head.get("ETag", "")).strip('"')

    def list(self, prefix: str, seconds: float) -> list[tuple[str, int, str, float]]:
        folder = self._key(prefix) if prefix else self.root
        found = self._run(lambda s3: s3._lsdir(folder, delimiter=""), seconds)
        skip = len(self.root) + 1
        files = (o for o in found if not o["name"].endswith("/"))
        return [
            (o["name"][skip:], int(o["size"]), str(o.get("ETag", "")).strip('"'), o["LastModified"].timestamp())
            for o in files
        ]

    def folders(self, prefix: str, seconds: float) -> tuple[str, ...]:
        # s3fs keeps listings by delimiter, unless it is asked to refresh them.
        found = self._run(lambda s3: s3._lsdir(self._key(prefix), delimiter="/", refresh=True), seconds)
        return tuple(o["name"].rstrip("/").rpartition("/")[2] for o in found if o["type"] == "directory")

    def walk(self, ask: Callable[[Callable[[float], Any]], Any]) -> Iterator[tuple[str, int, str]]:
        bucket, _, folder = self.root.partition("/")
        skip = len(folder) + 1 if folder else 0
        place = {"Bucket": bucket, "Prefix": f"{folder}/" if folder else ""}

        def request(seconds: float) -> Any:
            return self._run(lambda s3: s3._call_s3("list_objects_v2", **place), seconds)

        while True:
            page = ask(request)
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):
                    yield found["Key"][skip:], int(found["Size"]), str(found.get("ETag", "")).strip('"')
            if not page.get("IsTruncated"):
                return
            place["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, path: str, seconds: float) -> None:
        self._run(lambda s3: s3._rm_file(self._key(path)), seconds)

    def delete_unfinished(self, prefix: str, seconds: float) -> int:
        return 0

    def versioning(self, seconds: float) -> str:
        bucket = self.root.partition("/")[0]
        try:
            answer = self._run(lambda s3: s3._call_s3("get_bucket_versioning", Bucket=bucket), seconds)
        except (PermissionError, NotImplementedError):
            return "unknown"
        return str(answer.get("Status", "no")).lower()

    def _run(self, request: Callable[[S3FileSystem], Awaitable[Any]], seconds: float) -> Any:
        return self._with_credentials(lambda client: client.ask(request, seconds), seconds)

    def _with_credentials(self, request: Callable[[S3Client], T], seconds: float) -> T:
        """Send a request; if its credentials are refused and there are new ones, send it again with those."""
        client, bucket = s3_client(), self.root.partition("/")[0]
        try:
            return _reaching(client, bucket, request, seconds)
        except Exception as error:
            if not refuses_credentials(error) or (fresh := client_with_new_credentials(client, seconds)) is None:
                raise
            return request(fresh)

    def _address(self, path: str) -> tuple[str, str]:
        bucket, _, key = self._key(path).partition("/")
        return bucket, key

    def _key(self, path: str) -> str:
        return f"{self.root}/{path}"


def _reaching(client: S3Client, bucket: str, request: Callable[[S3Client], T], seconds: float) -> T:
    """Send a request. UnreachableError while this process has never reached the storage and a setting is to blame."""
    if client.answered:
        return request(client)
    try:
        client.require_reachable(bucket, seconds)
        answer = request(client)
    except UnreachableError:
        raise
    except Exception as error:
        url = failed_url(error) or client.known_url(bucket)
        if url and (fault := _setting_at_fault(error, url)) is not None:
            raise unreachable(fault) from error
        client.answered = is_answer(error)
        raise
    client.answered = True
    return answer


def _setting_at_fault(error: Exception, url: str) -> ConnectionFault | None:
    if (fault := find_fault(error, url)) is not None:
        return fault
    # Some servers answer a plain request to a port for TLS in words, some end the connection.
    return only_with_tls(url) if may_want_tls(error) and speaks_tls(url) else None
