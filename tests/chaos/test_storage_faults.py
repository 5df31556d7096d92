"""S3 on its bad days, behind a proxy that makes them: requests refused, connections hung, cut and slow, credentials
taken back, disks full. Below Ray: pack and the stream run here, against a real server."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medfuncta_dist.errors import CredentialsError, DeadlineError, DiskFullError, MedfunctaError
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.quickstart.embedded_s3 import EmbeddedS3
from medfuncta_dist.shards.snapshot import Shard, load_snapshot
from medfuncta_dist.storage import retry
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.s3.s3_client import s3_client
from medfuncta_dist.streaming.sample_order import SampleId
from medfuncta_dist.streaming.sample_reader import SampleReader
from medfuncta_dist.streaming.shard_cache import ShardCache
from medfuncta_dist.streaming.stream import scan_batches
from medfuncta_dist.task_map import map_here
from tests.chaos.disk import disk
from tests.chaos.faulty_s3 import Faults, FaultyS3
from tests.stores import moto
from tests.unit.shards.samples import objects, run_file
from tests.unit.streaming.archive import write_split
from tests.writers import write_ecg_csv

Root = Callable[[], str]
Measured = Callable[[str], None]
PLENTY = 10**9
HURRIED_S = 10.0
"""A deadline of a second, on a machine that does much else."""
BODY = os.urandom(1_000_000)


@pytest.fixture
def proxy(s3_server: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Between this process and the server from here on."""
    with FaultyS3(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def seconds(request: Callable[[], object], error: type[MedfunctaError]) -> tuple[float, MedfunctaError]:
    """How long it takes a request to fail, and with what."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        request()
    return time.monotonic() - began, caught.value


def hurried(root: str, body: bytes) -> ObjectStore:
    """A store that gives up after a second, with an object "a"; its connections, which take a while, are open."""
    ObjectStore(root).write("a", body)
    ObjectStore(root).read("a")
    return ObjectStore(root, deadline_s=1.0)


@pytest.mark.fault("storage")
@pytest.mark.parametrize(
    "faults",
    [Faults(error_share=0.2), Faults(error_share=0.1, lost_share=0.1, cut_share=0.05)],
    ids=["refused", "refused, answers lost, cut"],
)
def test_pack_and_read_back_with_a_fifth_of_all_requests_failing(
    tmp_path: Path, s3: Root, proxy: FaultyS3, faults: Faults, measured: Measured
) -> None:
    (tmp_path / "archive").mkdir()
    for n in range(6):
        write_ecg_csv(tmp_path / "archive" / f"{n}.csv", rows=4, seed=n)
    calm, stormy = (run_file(tmp_path, storage=s3(), sources_per_task=2) for _ in range(2))
    pack(calm, map_here, lambda _: None)
    proxy.faults = faults
    summary = pack(stormy, map_here, lambda _: None)
    read = list(scans(ObjectStore(stormy.storage), stormy.dataset, summary.snapshot_digest, tmp_path / "cache"))
    proxy.faults = Faults()
    assert len(read) == len(set(read)) == 24
    # The same objects, byte for byte: none lost, none more, none different.
    assert objects(ObjectStore(stormy.storage)) == objects(ObjectStore(calm.storage))
    failed = {name: count for name, count in proxy.did.items() if name in ("error", "lost", "cut")}
    assert sum(failed.values()) >= 5
    measured(f"24 scans packed and read, {failed} of {proxy.did.total()} requests")


def scans(store: ObjectStore, dataset: str, digest: str, folder: Path) -> Iterator[str]:
    """The keys of all scans of a data set, each decoded and verified."""
    for shards in load_snapshot(store, dataset, digest).splits.values():
        reader = SampleReader(store, shards, ShardCache(store, folder, PLENTY))
        ids = [SampleId(nth, row) for nth, shard in enumerate(shards) for row in range(shard.samples)]
        yield from (sample.key for sample in scan_batches(reader, ids))


@pytest.mark.fault("storage")
def test_a_hang_ends_at_the_deadline_by_name(s3: Root, proxy: FaultyS3, tmp_path: Path, measured: Measured) -> None:
    store = hurried(s3(), b"here")
    proxy.faults = Faults(hang_share=1.0)
    requests: dict[str, Callable[[], object]] = {
        "a": lambda: store.read("a"),
        "b": lambda: store.write("b", b"x"),
        "c": lambda: store.size("c"),
        "d": lambda: store.download("d", tmp_path / "d", size=10),
        "e": lambda: store.list("e"),
        "f": lambda: store.delete("f"),
    }
    for path, request in requests.items():
        took, error = seconds(request, DeadlineError)
        assert 1 <= took < HURRIED_S
        assert error.where.startswith(f"{store.uri(path)} (1 attempt in ")
    assert not (tmp_path / "d").exists()
    measured(f"deadline 1 s, the last one failed after {took:.1f} s")


@pytest.mark.fault("storage")
def test_a_slow_connection_is_given_up_for_another(
    s3: Root, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPT_S", 0.2)
    store = ObjectStore(s3(), deadline_s=20)
    store.write("a", BODY)
    proxy.faults = Faults(methods=frozenset({"GET"}), slow_share=0.5, bytes_per_s=1000)
    for _ in range(3):
        store.download("a", tmp_path / "a", size=len(BODY))
        assert (tmp_path / "a").read_bytes() == BODY
    assert proxy.did["slow"] >= 1


@pytest.mark.fault("storage")
def test_a_trickle_ends_at_the_deadline_by_name(s3: Root, proxy: FaultyS3, tmp_path: Path) -> None:
    store = hurried(s3(), BODY)
    proxy.faults = Faults(slow_share=1.0, bytes_per_s=1000)
    for request in (lambda: store.read("a"), lambda: store.download("a", tmp_path / "a", size=len(BODY))):
        took, error = seconds(request, DeadlineError)
        assert took < HURRIED_S
        assert store.uri("a") in error.where
    assert not (tmp_path / "a").exists()


@pytest.mark.fault("storage")
def test_an_object_that_is_cut_is_asked_for_again(s3: Root, proxy: FaultyS3, tmp_path: Path) -> None:
    store = ObjectStore(s3(), deadline_s=30)
    store.write("a", BODY)
    gets = frozenset({"GET"})
    proxy.faults = Faults(methods=gets, cut_share=0.5, cut_after=600_000)
    for _ in range(6):
        assert store.read("a") == BODY
        store.download("a", tmp_path / "a", size=len(BODY))
        assert (tmp_path / "a").read_bytes() == BODY
        assert store.read_range("a", 1000, 900_000) == BODY[1000:901_000]
    assert proxy.did["cut"] >= 3
    (tmp_path / "a").unlink()
    proxy.faults = Faults(methods=gets, cut_share=1.0, cut_after=600_000)
    store = ObjectStore(store.root, deadline_s=1.0)
    _, error = seconds(lambda: store.download("a", tmp_path / "a", size=len(BODY)), DeadlineError)
    assert store.uri("a") in error.where
    assert list(tmp_path.iterdir()) == []  # neither half of it, nor what it was written to


@pytest.mark.fault("storage")
def test_a_full_store_is_asked_again_until_it_has_room(s3: Root, proxy: FaultyS3) -> None:
    store = hurried(s3(), b"before")
    proxy.faults = Faults(methods=frozenset({"PUT", "POST"}), error_share=1.0, error_status=507)
    _, error = seconds(lambda: store.write("a", BODY), DeadlineError)
    assert "InsufficientStorage (HTTP 507)" in error.what
    proxy.faults = Faults()
    store = ObjectStore(store.root)
    assert store.read("a") == b"before"
    store.write("a", BODY)
    assert store.read("a") == BODY


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Credentials as a file gives them, the way a cluster renews them; call it with a new key."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    return lambda key: _replace(file, f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")


def _replace(file: Path, text: str) -> None:
    file.write_text(text)


@pytest.mark.fault("credentials")
@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
def test_credentials_that_were_replaced_are_taken_up(
    key_file: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, code: str, measured: Measured
) -> None:
    with moto() as environment, FaultyS3(environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        key_file("OLD")
        store = ObjectStore(f"s3://rotated-{code.lower()}", deadline_s=20)
        s3_client().files.mkdir(f"rotated-{code.lower()}")
        store.write("a", b"1")
        key_file("NEW")
        proxy.faults = Faults(refused_key="OLD", refused_code=code)
        assert store.read("a") == b"1"
        store.write("b", b"2")
        assert proxy.did["refused"] == 1  # one request, and from then on the new key
        measured(f"{code}: taken up after {proxy.did['refused']} refused request")


@pytest.mark.fault("credentials")
def test_expired_credentials_stop_and_resume(s3: Root, proxy: FaultyS3, measured: Measured) -> None:
    store = ObjectStore(s3(), deadline_s=30)
    store.write("a", b"1")
    proxy.faults = Faults(refused_key="", refused_code="ExpiredToken")
    for request in (lambda: store.read("a"), lambda: store.write("a", b"2"), lambda: store.list("")):
        took, error = seconds(request, CredentialsError)
        assert took < HURRIED_S  # of 30 s that it had
        assert error.exit_code == 5
        assert store.root in error.where
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(error)
    proxy.faults = Faults()
    assert store.read("a") == b"1"
    measured("no others to be had: exit code 5 at once")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB."""
    with disk(tmp_path / "small", 128 * 2**10) as folder:
        yield folder


@pytest.mark.fault("disk-full")
def test_the_cache_goes_on_with_what_fits(s3: Root, small_disk: Path, tmp_path: Path, measured: Measured) -> None:
    store = ObjectStore(s3())
    shards = write_split(store, [16] * 4)  # 40 KiB each: two fit beside what else lies there
    cache = ShardCache(store, small_disk, PLENTY)
    for _ in range(2):
        for shard in shards:
            with cache.open(shard) as file:
                assert file.read() == store.read(shard.uri)
            assert whole_shards(small_disk, shards)
    (big,) = write_split(store, [80])
    _, error = seconds(lambda: cache.path(big), DiskFullError)
    assert str(big.size) in error.what
    assert str(small_disk) in error.where
    assert "cluster.cache" in error.do
    assert whole_shards(small_disk, shards)
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert cache.path(big).stat().st_size == big.size
    measured("shards beyond the disk push out others; one larger than the disk is an error; with room it goes on")


def whole_shards(folder: Path, shards: list[Shard]) -> bool:
    """Whether every file that could be taken for a shard is one, and nothing half-written stays."""
    sizes = {f"{shard.sha256}.tar": shard.size for shard in shards}
    rest = [file for file in folder.iterdir() if file.suffix not in (".lock", ".index", ".tar")]
    return not rest and all(file.stat().st_size == sizes[file.name] for file in folder.glob("*.tar"))


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses this process every byte of a file beyond ``size``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.fault("disk-full")
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_write_that_breaks_off_leaves_nothing(kind: str, s3: Root, tmp_path: Path) -> None:
    store = ObjectStore(s3() if kind == "s3" else str(tmp_path / "store"))
    (shard,) = write_split(store, [400])
    cache = ShardCache(store, tmp_path / "cache", PLENTY)
    with no_file_above(shard.size // 2):
        seconds(lambda: cache.path(shard), DiskFullError)
        if kind == "local":
            seconds(lambda: store.write("a", bytes(shard.size)), DiskFullError)
    assert not store.exists("a")
    assert whole_shards(tmp_path / "cache", [])
    assert cache.path(shard).read_bytes() == store.read(shard.uri)
