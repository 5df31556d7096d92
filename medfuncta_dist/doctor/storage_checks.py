"""Checks of the storage: credentials, reading and writing, multipart uploads, conditional writes, speed, clock."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import cache, partial

from urllib3.exceptions import HTTPError

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.check import Check, Finding, Outcome, failed, passed, skipped, warned
from medfuncta_dist.errors import IntegrityError, MedfunctaError, UnreachableError
from medfuncta_dist.storage.connection_settings import choose_bundle, choose_proxy, describe_place
from medfuncta_dist.storage.first_contact import fetch_headers, try_connection
from medfuncta_dist.storage.leases.compare_and_swap import honours_conditions
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.request_failures import reason

SLOW_REQUEST_S = 1.0
"""Small requests that take longer slow down a stage, which makes thousands of commits."""
WARN_SKEW_S = 60.0
"""S3 refuses requests signed with a clock that is 15 minutes off; a minute already shows that no NTP keeps it right."""
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
    "assume-role": "a role assumed from another one",
}
"""botocore's names of the sources of credentials, explained."""
SHORT_LIVED = {"assume-role-with-web-identity", "container-role", "iam-role", "assume-role", "sso"}


def list_storage_checks(run: RunFile | None) -> list[Check]:
    """Checks of the run file's ``storage``. Without credentials, the others are skipped."""
    if run is None:
        return [Check("storage", lambda: skipped("no run file: name one to check its storage"))]
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
        Check("connection", lambda: check_connection(_choose_endpoint())),
        *(Check(name, partial(_run_with_credentials, check, store)) for name, check in checks.items()),
        Check("clock", check_clock),
    ]


def _run_with_credentials(check: Callable[[ObjectStore], Finding], store: ObjectStore) -> Finding:
    if check_credentials().state is Outcome.FAILED:
        return skipped("there are no credentials")
    try:
        check_connection(_choose_endpoint())
    except UnreachableError:
        return skipped("the storage cannot be reached")
    return check(store)


@cache
def check_credentials() -> Finding:
    """The source of the credentials. Roles are best: they expire, and are in no file."""
    from botocore.session import Session

    found = Session().get_credentials()
    if found is None:
        return failed(
            "no credentials were found",
            "in a cluster: annotate the ServiceAccount with a role (kubernetes.service_account), or name a Secret "
            "(kubernetes.storage_secret); elsewhere: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `aws configure`",
        )
    what = f"from {PROVIDERS.get(found.method, found.method)}"
    if found.method in SHORT_LIVED or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return passed(what)
    return warned(
        what, "in a cluster, use a role on the ServiceAccount (IRSA) instead of keys: kubernetes.service_account"
    )


def check_connection(endpoint: str) -> Finding:
    """The storage's address can be reached, with the CA bundle and the proxy that are set here."""
    bundle, proxy = choose_bundle(_configured_bundle()), choose_proxy(endpoint)
    try_connection(endpoint, bundle)
    via = f" through the proxy {describe_place(proxy)}" if proxy else ""
    trust = f", CAs of {bundle.variable}" if endpoint.startswith("https:") and bundle.variable else ""
    return passed(f"{describe_place(endpoint)}{via}{trust}")


def check_read_and_write(store: ObjectStore) -> Finding:
    """Write, read, list and delete a small object."""
    path, data = f".doctor-{secrets.token_hex(8)}/probe", secrets.token_bytes(1000)
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: store.write(path, data),
        "read": lambda: _require_same_bytes(store, path, data),
        "list": lambda: _require_listed(store, path),
    }
    try:
        seconds = {name: _measure_seconds(step) for name, step in steps.items()}
    except MedfunctaError:
        with suppress(MedfunctaError):  # the first error is the finding
            store.delete(path)
        raise
    seconds["delete"] = _measure_seconds(lambda: store.delete(path))
    times = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in seconds.items())
    if max(seconds.values()) > SLOW_REQUEST_S:
        return warned(
            f"{store.root}: {times}", "use a bucket in the same region as the cluster; check the network's latency"
        )
    return passed(f"{store.root}: {times}")


def check_multipart(store: ObjectStore) -> Finding:
    """An upload in parts, as of large shards: some S3 proxies and policies forbid it."""
    from medfuncta_dist.storage.s3.s3_client import s3_client

    bucket, _, prefix = store.root.removeprefix("s3://").partition("/")
    place = {"Bucket": bucket, "Key": f"{prefix}/.doctor-{secrets.token_hex(8)}/parts".lstrip("/")}
    client, size = s3_client(), 6 * MEBI

    async def upload_parts(files: object) -> None:
        call = files._call_s3  # type: ignore[attr-defined]
        upload = {**place, "UploadId": (await call("create_multipart_upload", **place))["UploadId"]}
        parts = []
        try:
            for number, length in ((1, 5 * MEBI), (2, size - 5 * MEBI)):  # 5 MiB: S3's minimum for all but the last
                answer = await call("upload_part", **upload, PartNumber=number, Body=bytes(length))
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            await call("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except Exception:
            await call("abort_multipart_upload", **upload)  # else its parts stay, invisible, and cost money
            raise

    async def remove(files: object) -> None:
        await files._call_s3("delete_object", **place)  # type: ignore[attr-defined]

    try:
        seconds = _measure_seconds(lambda: client.ask(upload_parts, 60))
        client.ask(remove, 20)
    except Exception as error:
        do = "allow s3:PutObject and s3:AbortMultipartUpload; a proxy in front of the storage must forward `?uploads`"
        return failed(f"an upload in parts was refused: {reason(error)}", do)
    return passed(f"{size / MEBI:.0f} MiB in two parts, {size / MEBI / seconds:.0f} MiB/s")


def check_conditional_writes(store: ObjectStore) -> Finding:
    """Conditional writes, which a lease needs to be exact."""
    began = time.monotonic()
    if honours_conditions(store):
        return passed(f"supported: only one driver per run ({1000 * (time.monotonic() - began):.0f} ms)")
    do = "do not start two drivers of one run at the same moment (docs/decisions/runs.md describes the fallback)"
    return warned("not supported by this store: leases use a fallback, which is not exact", do)


def check_clock() -> Finding:
    """This machine's clock, against the storage's."""
    endpoint = _choose_endpoint()
    try:
        skew = measure_clock_skew(endpoint)
    except UnreachableError:
        return skipped("the storage cannot be reached")
    except (HTTPError, OSError, KeyError, TypeError, ValueError) as error:
        do = "check AWS_ENDPOINT_URL and AWS_DEFAULT_REGION, and what lies between this machine and the storage"
        return failed(f"{endpoint} does not report its time: {reason(error)}", do)
    what = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the storage's"
    if abs(skew) >= MAX_SKEW_S:
        return failed(what, "S3 refuses requests signed with such a clock: set it (chrony, systemd-timesyncd)")
    return (
        passed(what) if abs(skew) < WARN_SKEW_S else warned(what, "synchronize the clock (chrony, systemd-timesyncd)")
    )


def measure_clock_skew(endpoint: str) -> float:
    """Seconds by which this clock is ahead of the server's, to about a second. A refused request also has the time."""
    began = time.time()
    date = fetch_headers(endpoint, choose_bundle(_configured_bundle()))["Date"]
    local_time = (began + time.time()) / 2
    server_time = parsedate_to_datetime(date).timestamp() + 0.5
    return local_time - server_time


def _configured_bundle() -> str | None:
    from botocore.session import Session

    found = Session().get_config_variable("ca_bundle")
    return str(found) if found else None


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
        raise IntegrityError(
            "the bytes read are not the bytes written", where=store.uri(path), do="use another storage"
        )


def _require_listed(store: ObjectStore, path: str) -> None:
    if [info.path for info in store.list(path.rpartition("/")[0])] != [path]:
        raise IntegrityError(
            "a listing does not show an object that was just written",
            where=store.uri(path),
            do="allow s3:ListBucket; storage whose listings lag behind loses commits",
        )
