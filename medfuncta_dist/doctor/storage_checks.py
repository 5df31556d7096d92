"""The storage: who asks, whether it can be read and written, in one piece and in many, how fast, and at what time."""

from __future__ import annotations

import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import cache, partial

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.check import Check, Finding, Outcome, failed, passed, skipped, warned
from medfuncta_dist.errors import IntegrityError, MedfunctaError
from medfuncta_dist.storage.leases.compare_and_swap import honours_conditions
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.request_failures import reason

SLOW_REQUEST_S = 1.0
"""A small request that takes longer makes a stage of thousands of commits slow."""
WARN_SKEW_S = 60.0
"""S3 refuses requests that are signed 15 minutes off; a minute already says that nobody keeps the time."""
MAX_SKEW_S = 900.0
MEBI = 2**20
PROVIDERS = {
    "env": "environment variables",
    "assume-role-with-web-identity": "the pod's ServiceAccount (IRSA)",
    "container-role": "the pod's or container's role",
    "iam-role": "the machine's role",
    "shared-credentials-file": "the file ~/.aws/credentials",
    "config-file": "the file ~/.aws/config",
    "sso": "single sign-on",
    "assume-role": "a role that another one may take",
}
"""What botocore calls its ways to credentials, in words."""
SHORT_LIVED = {"assume-role-with-web-identity", "container-role", "iam-role", "assume-role", "sso"}


def storage_checks(run: RunFile | None) -> list[Check]:
    """Of the run file's ``storage``. Without credentials, nothing else is asked of it."""
    if run is None:
        return [Check("storage", lambda: skipped("no run file: give one to have its storage checked"))]
    store = ObjectStore(run.storage)
    if not store.root.startswith("s3://"):
        return [Check("storage", lambda: check_read_and_write(store))]
    checks = {
        "storage": check_read_and_write,
        "multipart": check_multipart,
        "conditional writes": check_conditional_writes,
    }
    return [
        Check("credentials", check_credentials),
        *(Check(name, partial(_run_with_credentials, check, store)) for name, check in checks.items()),
        Check("clock", check_clock),
    ]


def _run_with_credentials(check: Callable[[ObjectStore], Finding], store: ObjectStore) -> Finding:
    return check(store) if check_credentials().state is not Outcome.BAD else skipped("there are no credentials")


@cache
def check_credentials() -> Finding:
    """Where they come from. Roles are best: they expire by themselves, and lie in no file."""
    from botocore.session import Session

    found = Session().get_credentials()
    if found is None:
        return failed(
            "there are none",
            "in a cluster: annotate the ServiceAccount with a role (kubernetes.service_account), or name a Secret "
            "(kubernetes.storage_secret); elsewhere: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `aws configure`",
        )
    told = f"from {PROVIDERS.get(found.method, found.method)}"
    if found.method in SHORT_LIVED or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return passed(told)
    return warned(told, "in a cluster, a role on the ServiceAccount (IRSA) needs no keys: kubernetes.service_account")


def check_read_and_write(store: ObjectStore) -> Finding:
    """Write, read back, list and delete a small object; the slowest is told."""
    path, data = f".doctor-{secrets.token_hex(8)}/probe", secrets.token_bytes(1000)
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: store.write(path, data),
        "read": lambda: _require_same_bytes(store, path, data),
        "list": lambda: _require_listed(store, path),
    }
    try:
        seconds = {name: _measure_seconds(step) for name, step in steps.items()}
    except MedfunctaError:
        with suppress(MedfunctaError):  # what was refused before is the answer
            store.delete(path)
        raise
    seconds["delete"] = _measure_seconds(lambda: store.delete(path))
    told = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in seconds.items())
    if max(seconds.values()) > SLOW_REQUEST_S:
        return warned(f"{store.root}: {told}", "use a bucket in the cluster's own region; see the network's latency")
    return passed(f"{store.root}: {told}")


def check_multipart(store: ObjectStore) -> Finding:
    """An upload in parts, as large shards go: S3 proxies and policies like to forbid just this."""
    from medfuncta_dist.storage.s3.s3_client import s3_client

    bucket, _, prefix = store.root.removeprefix("s3://").partition("/")
    place = {"Bucket": bucket, "Key": f"{prefix}/.doctor-{secrets.token_hex(8)}/parts".lstrip("/")}
    client, size = s3_client(), 6 * MEBI

    async def in_parts(files: object) -> None:
        call = files._call_s3  # type: ignore[attr-defined]
        upload = {**place, "UploadId": (await call("create_multipart_upload", **place))["UploadId"]}
        parts = []
        try:
            for number, length in ((1, 5 * MEBI), (2, size - 5 * MEBI)):  # 5 MiB: S3's least for all but the last
                answer = await call("upload_part", **upload, PartNumber=number, Body=bytes(length))
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            await call("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except Exception:
            await call("abort_multipart_upload", **upload)  # else its parts lie there unseen, and are paid for
            raise

    async def remove(files: object) -> None:
        await files._call_s3("delete_object", **place)  # type: ignore[attr-defined]

    try:
        seconds = _measure_seconds(lambda: client.ask(in_parts, 60))
        client.ask(remove, 20)
    except Exception as error:
        do = "allow s3:PutObject and s3:AbortMultipartUpload; a proxy before the storage must pass `?uploads`"
        return failed(f"an upload in parts is refused: {reason(error)}", do)
    return passed(f"{size / MEBI:.0f} MiB in two parts, {size / MEBI / seconds:.0f} MiB/s")


def check_conditional_writes(store: ObjectStore) -> Finding:
    """Whether a lease is taken exactly, or by the next-best."""
    began = time.monotonic()
    if honours_conditions(store):
        return passed(f"honoured: one driver a run, exactly ({1000 * (time.monotonic() - began):.0f} ms)")
    do = "do not start two drivers of one run in the same moment; docs/decisions.md tells of the next-best"
    return warned("ignored by this store: leases are taken by the next-best way", do)


def check_clock() -> Finding:
    """This machine's time against the storage's."""
    endpoint = _choose_endpoint()
    try:
        skew = measure_clock_skew(endpoint)
    except (OSError, TypeError, ValueError) as error:
        do = "see AWS_ENDPOINT_URL and AWS_DEFAULT_REGION, and that this machine reaches it"
        return failed(f"{endpoint} tells no time: {error}", do)
    told = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the storage's"
    if abs(skew) >= MAX_SKEW_S:
        return failed(told, "S3 refuses such signatures: set the clock (chrony, systemd-timesyncd)")
    return (
        passed(told)
        if abs(skew) < WARN_SKEW_S
        else warned(told, "let the machine keep the time (chrony, systemd-timesyncd)")
    )


def measure_clock_skew(endpoint: str) -> float:
    """How far this clock is ahead of the server's, which tells whole seconds. Any answer will do: also a refusal."""
    request = urllib.request.Request(endpoint, method="HEAD")
    began = time.time()
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as refusal:
        date = refusal.headers["Date"]
    here = (began + time.time()) / 2
    there = parsedate_to_datetime(date).timestamp() + 0.5
    return here - there


def _choose_endpoint() -> str:
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return given or f"https://s3.{region}.amazonaws.com"


def _measure_seconds(step: Callable[[], object]) -> float:
    began = time.monotonic()
    step()
    return time.monotonic() - began


def _require_same_bytes(store: ObjectStore, path: str, data: bytes) -> None:
    if store.read(path) != data:
        raise IntegrityError("what was read is not what was written", where=store.uri(path), do="use another storage")


def _require_listed(store: ObjectStore, path: str) -> None:
    if [info.path for info in store.list(path.rpartition("/")[0])] != [path]:
        raise IntegrityError(
            "a listing does not show what was just written",
            where=store.uri(path),
            do="allow s3:ListBucket; a storage that lists late loses commits",
        )
