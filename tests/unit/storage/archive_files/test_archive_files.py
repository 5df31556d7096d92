from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medfuncta_dist.errors import ScanError
from medfuncta_dist.storage.archive_files import inflate, place, tar_members, zip_members
from medfuncta_dist.storage.archive_files.inflate import InflatedFile
from medfuncta_dist.storage.archive_files.member_bytes import MemberFile, copy_member, member_fetch
from medfuncta_dist.storage.archive_files.place import Entry, kind_of, plain_name, without_repeated
from medfuncta_dist.storage.archive_files.range_file import RangeFile
from medfuncta_dist.storage.archive_files.tar_members import tar_entries
from medfuncta_dist.storage.archive_files.zip_members import zip_entries
from medfuncta_dist.storage.source_ranges import Fetch, fetch_from
from tests.bundles import SUFFIXES, bundled, tarred, zipped

NOISE = random.Random(0)
FILES = {
    "a/one.dcm": NOISE.randbytes(70_000),
    "a/two": b"two" * 30_000,
    "b/empty": b"",
    "Doe^John/" + "x" * 180 + ".png": NOISE.randbytes(513),
    "ä/größe.csv": b"1,2,3\n",
    "big": NOISE.randbytes(3 * 2**20 + 1),
}
PLAIN = [suffix for suffix in SUFFIXES if kind_of(suffix) not in place.SOLID]


def fetch_of(data: bytes) -> Fetch:
    return lambda start, length: data[start : start + length]


def entries(data: bytes, suffix: str, path: str = "archive") -> dict[str, Entry]:
    kind = str(kind_of(suffix))
    if kind == "zip":
        return {entry.name: entry for entry in zip_entries(fetch_of(data), len(data), path)}
    found = [entry for entry, _ in tar_entries(fetch_of(data), len(data), path, kind)]
    return {entry.name: entry for entry in without_repeated(found)}


def refusals(data: bytes, suffix: str) -> dict[str, str]:
    return {name: entry.refused for name, entry in entries(data, suffix).items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_member_is_listed_with_its_bytes(suffix: str, tmp_path: Path) -> None:
    data = bundled(FILES, suffix)
    path = tmp_path / f"study{suffix}"
    path.write_bytes(data)
    found = entries(data, suffix, str(path))
    assert found.keys() == FILES.keys()
    for name, entry in found.items():
        assert (entry.refused, entry.place and entry.place.size) == ("", len(FILES[name]))
    if suffix in PLAIN:
        for name, entry in found.items():
            assert entry.place is not None
            copy_member(entry.place, tmp_path / "member")
            assert (tmp_path / "member").read_bytes() == FILES[name]
    else:
        kind = str(kind_of(suffix))
        read = {entry.name: reader(2**30) for entry, reader in tar_entries(fetch_of(data), len(data), "a", kind)}
        assert read == FILES


@pytest.mark.parametrize("suffix", PLAIN)
def test_any_range_of_a_member_is_read_in_place(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"study{suffix}"
    path.write_bytes(bundled(FILES, suffix))
    big = entries(path.read_bytes(), suffix, str(path))["big"].place
    assert big is not None
    fetch, whole = member_fetch(big), FILES["big"]
    for start, length in ((0, 132), (2**20, 7), (5, 2**20), (len(whole) - 3, 3), (0, len(whole)), (100, 0)):
        assert fetch(start, length) == whole[start : start + length]
    with pytest.raises(ScanError):
        fetch(len(whole) - 3, 4)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read(format: int) -> None:
    files = {name: data for name, data in FILES.items() if format != tarfile.USTAR_FORMAT or len(name) < 100}
    assert entries(tarred(files, format=format), ".tar").keys() == files.keys()


def test_zips_as_other_programs_write_them() -> None:
    class Pipe(io.RawIOBase):
        """Not seekable: sizes follow the data, and the header before it has none."""

        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive, archive.open("a", "w", force_zip64=True) as member:  # type: ignore[arg-type]
        member.write(b"slice" * 100)
    streamed = bytes(pipe.data)
    with_stub = b"#!/bin/sh\n" * 50 + zipped({"a": b"slice" * 100})
    with_comment = io.BytesIO(zipped({"a": b"slice" * 100}))
    with zipfile.ZipFile(with_comment, "a") as archive:
        archive.comment = b"from a PACS " * 1000
    for data in (streamed, with_stub, with_comment.getvalue()):
        found = entries(data, ".zip")["a"].place
        assert found is not None
        assert found.size == 500


def test_a_long_header_of_a_member_is_not_taken_for_its_data(tmp_path: Path) -> None:
    """The header before the data can be longer than the directory tells, for example aligned."""
    data = bytearray(zipped({"a": b"slice" * 100}, zipfile.ZIP_STORED))
    extra = struct.pack("<HH", 0xD935, 396) + bytes(396)
    data[28:30] = struct.pack("<H", len(extra))
    data[31:31] = extra
    end = len(data) - 22
    data[end + 16 : end + 20] = struct.pack("<I", struct.unpack_from("<I", data, end + 16)[0] + len(extra))
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    found = entries(bytes(data), ".zip", str(path))["a"].place
    assert found is not None
    assert b"".join(MemberFile(found, whole=True).pieces()) == b"slice" * 100


def test_names_that_lead_out_of_the_archive_are_refused() -> None:
    for raw in ("../a", "a/../../b", "/etc/passwd", "C:\\scan", "C:/scan", "\\\\host\\scan", "a\\..\\b", "", "./", "."):
        assert plain_name(raw)[1] == place.NAME
    assert plain_name("x" * 5000)[1] == place.NAME
    assert plain_name("./a//b") == ("a/b", "")
    assert plain_name("a..b/c...dcm") == ("a..b/c...dcm", "")
    for raw in ("inner.zip", "a/b.tar.gz", "b.7z", "c.TAR"):
        assert plain_name(raw)[1] == place.NESTED


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_plain_file_is_refused_and_the_rest_is_read(suffix: str) -> None:
    files = {"../up.dcm": b"x", "in.zip": b"x", "good": b"x", "a/.DS_Store": b"x", "__MACOSX/good": b"x"}
    assert refusals(bundled(files, suffix), suffix) == {"../up.dcm": place.NAME, "in.zip": place.NESTED, "good": ""}


def test_links_devices_and_sparse_files_of_a_tar_are_refused() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        ):
            info = tarfile.TarInfo(f"m{number}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("sparse")
        info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1099511627776", "GNU.sparse.name": "sparse"}
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo("good"))
    found = refusals(out.getvalue(), ".tar")
    assert found == {
        "m0": place.LINK,
        "m1": place.LINK,
        "m2": place.SPECIAL,
        "m3": place.SPECIAL,
        "sparse": place.SPARSE,
        "good": "",
    }


def test_links_of_a_zip_are_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("good", b"x")
    assert refusals(out.getvalue(), ".zip") == {"link": place.LINK, "good": ""}


def test_members_of_an_encrypted_zip_are_refused() -> None:
    data = bytearray(zipped({"a": b"x" * 100, "b": b"y"}))
    at = data.index(b"PK\1\2")
    data[at + 8] |= 1
    assert refusals(bytes(data), ".zip") == {"a": place.ENCRYPTED, "b": ""}


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_of_a_zip_are_refused(compression: int) -> None:
    assert refusals(zipped({"a": b"x" * 1000}, compression), ".zip") == {"a": place.METHOD}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_members_with_one_name_none_is_read(suffix: str) -> None:
    files = [("a", b"1"), ("./a", b"2"), ("b", b"3")]

    class Pairs(dict[str, bytes]):
        def items(self) -> list[tuple[str, bytes]]:  # type: ignore[override]
            return files

    assert refusals(bundled(Pairs(), suffix), suffix) == {"a": place.REPEATED, "b": ""}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_members_than_the_limit_are_refused(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tar_members, zip_members):
        monkeypatch.setattr(module, "MEMBERS", 3)
    assert len(entries(bundled({str(i): b"x" for i in range(3)}, suffix), suffix)) == 3
    with pytest.raises(ScanError, match="more than"):
        entries(bundled({str(i): b"x" for i in range(4)}, suffix), suffix)


def test_a_member_of_a_zip_that_declares_a_thousand_times_its_size_is_refused() -> None:
    zeros = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = zeros.compress(bytes(2**28 + 2**20)) + zeros.flush()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", data)  # stored; its header is then made to say that this is a deflated gigabyte
    raw = bytearray(out.getvalue())
    at = raw.index(b"PK\1\2")
    raw[at + 10 : at + 12] = struct.pack("<H", 8)
    raw[at + 24 : at + 28] = struct.pack("<I", 2**28 + 2**20)
    with pytest.raises(ScanError, match=place.BOMB):
        entries(bytes(raw), ".zip")


def test_members_that_lie_in_each_other_are_a_bomb() -> None:
    raw = bytearray(zipped({"a": b"x" * 100, "b": b"y" * 100}, zipfile.ZIP_STORED))
    second = raw.index(b"PK\1\2", raw.index(b"PK\1\2") + 1)
    raw[second + 42 : second + 46] = struct.pack("<I", 0)
    with pytest.raises(ScanError, match=place.BOMB):
        entries(bytes(raw), ".zip")


def test_a_member_that_becomes_more_than_it_declares_is_damaged(tmp_path: Path) -> None:
    raw = bytearray(zipped({"a": b"x" * 10_000}))
    for magic, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        begin = raw.index(magic)
        raw[begin + at : begin + at + 4] = struct.pack("<I", 100)
    (tmp_path / "a.zip").write_bytes(raw)
    found = entries(bytes(raw), ".zip", str(tmp_path / "a.zip"))["a"].place
    assert found is not None
    with pytest.raises(ScanError, match=place.DAMAGED_MEMBER):
        copy_member(found, tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= 100


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_compressed_tar_that_grows_too_much_is_a_bomb(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "FREE_BYTES", 2**22)
    with pytest.raises(ScanError, match=place.BOMB):
        entries(bundled({"a": bytes(2**25)}, suffix), suffix)


def test_an_xz_file_that_asks_for_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "LARGEST_DICTIONARY", 2**20)
    with pytest.raises(ScanError, match=place.DAMAGED):
        entries(bundled({"a": b"x"}, ".tar.xz"), ".tar.xz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_archive_file_is_refused_wherever_it_ends(suffix: str) -> None:
    """But for a tar's last zeros: one block of them is an end."""
    files = {"a": NOISE.randbytes(700), "b": b"slice" * 300, "c": b""}
    data = bundled(files, suffix)
    whole = len(data) if suffix != ".tar" else 512 * (1 + 3 + 1 + 3 + 1)
    for end in {*range(0, whole, 37), *range(512, whole, 512), whole - 1}:
        with pytest.raises(ScanError):
            entries(data[:end], suffix)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_header_that_is_damaged_does_not_hide_what_follows(suffix: str) -> None:
    raw = bytearray(tarred({"a": b"1", "b": b"2", "c": b"3"}))
    raw[1024 + 5] ^= 255
    data = bytes(raw) if suffix == ".tar" else gzip.compress(bytes(raw))
    with pytest.raises(ScanError, match=place.DAMAGED):
        entries(data, suffix)


def test_a_header_with_a_negative_size_does_not_lead_in_circles() -> None:
    raw = bytearray(tarred({"a": b"1", "b": b"2"}))
    block = tarfile.TarInfo("b")
    block.size = -1024
    raw[1024:1536] = block.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ScanError, match=place.DAMAGED):
        entries(bytes(raw), ".tar")


def test_a_header_that_asks_for_gigabytes_is_refused() -> None:
    block = tarfile.TarInfo("././@LongLink")
    block.type, block.size = tarfile.GNUTYPE_LONGNAME, 2**33
    data = block.tobuf(tarfile.GNU_FORMAT) + bytes(2**21)
    for suffix, made in ((".tar", data), (".tar.gz", gzip.compress(data))):
        with pytest.raises(ScanError, match=place.DAMAGED):
            entries(made, suffix)


@pytest.mark.parametrize("change", [lambda d: d + bytes(600), lambda d: d + d])
def test_padding_and_several_streams_of_a_gzip_file_are_read(change: Callable[[bytes], bytes]) -> None:
    data = change(gzip.compress(FILES["a/two"]))
    file = InflatedFile(RangeFile(fetch_of(data), len(data)), "gz", len(data))
    assert file.read(2**20)[: len(FILES["a/two"])] == FILES["a/two"]
    assert file.read(2**20) == b""


def test_foreign_bytes_behind_a_gzip_stream_are_damage() -> None:
    data = bundled({"a": b"x"}, ".tar.gz")
    with pytest.raises(ScanError, match=place.DAMAGED):
        entries(data + b"garbage", ".tar.gz")


def test_a_member_whose_archive_file_was_replaced_is_not_read(tmp_path: Path) -> None:
    """Its place may hold another patient's slice."""
    for suffix in PLAIN:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(bundled({"a": b"1" * 600, "b": b"2" * 600}, suffix))
        found = entries(path.read_bytes(), suffix, str(path))["b"].place
        path.write_bytes(bundled({"c": b"3" * 600, "d": b"4" * 600}, suffix))
        assert found is not None
        with pytest.raises(ScanError):
            copy_member(found, tmp_path / "out")


def test_a_flipped_bit_of_a_member_is_found(tmp_path: Path) -> None:
    raw = bytearray(zipped({"a": FILES["a/one.dcm"]}, zipfile.ZIP_STORED))
    raw[5000] ^= 4
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    found = entries(bytes(raw), ".zip", str(path))["a"].place
    assert found is not None
    with pytest.raises(ScanError, match=place.DAMAGED_MEMBER):
        copy_member(found, tmp_path / "out")


def test_a_zip_is_listed_by_its_end_alone_and_a_member_takes_one_request(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({f"{i}": NOISE.randbytes(50_000) for i in range(40)}))
    asked: list[tuple[int, int]] = []
    disk = fetch_from(str(path))

    def fetch(start: int, length: int) -> bytes:
        asked.append((start, length))
        return disk(start, length)

    found = zip_entries(fetch, path.stat().st_size, str(path))
    assert asked == [(path.stat().st_size - 2**16, 2**16)]
    assert len(found) == 40


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_mutated_archive_files_are_read_or_refused(suffix: str) -> None:
    files = {"a/b": b"slice" * 100, "c" * 120: NOISE.randbytes(600), "d": b""}
    whole = bundled(files, suffix)

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def tried(changes: list[tuple[int, int]]) -> None:
        data = bytearray(whole)
        for at, value in changes:
            data[at] = value
        with suppress(ScanError):
            found = entries(bytes(data), suffix)
            assert all(entry.place is not None or entry.refused for entry in found.values())

    tried()
