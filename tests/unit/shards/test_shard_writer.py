from __future__ import annotations

import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset as wds

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.shards.sample import decode, encode
from medfuncta_dist.shards.shard_writer import ShardWriter, write_shard
from medfuncta_dist.storage.digest import crc32c
from tests.unit.shards.samples import key_of, scan


def write(path: Path, n: int = 5) -> pa.Table:
    return write_shard(path, [(key_of(i), scan(i), key_of("source"), f"row/{i}") for i in range(n)])


def test_the_same_scans_make_the_same_bytes_at_another_time(tmp_path: Path) -> None:
    first = write(tmp_path / "a.tar")
    time.sleep(1.1)  # tar headers hold whole seconds
    second = write(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert first.equals(second)


def test_headers_say_nothing_of_the_machine(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert member.isreg()


def test_plain_webdataset_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    samples = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode())
    assert [s["__key__"] for s in samples] == [key_of(i) for i in range(5)]
    for i, sample in enumerate(samples):
        assert np.array_equal(sample["npy"], scan(i).array)
        assert sample["json"]["labels"] == [i % 3]


def test_plain_tarfile_reads_it_in_the_order_given(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == [f"{key_of(i)}.{suffix}" for i in range(5) for suffix in ("npy", "json")]


def test_the_index_points_at_exactly_the_members(tmp_path: Path) -> None:
    index = write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    assert index["key"].to_pylist() == [key_of(i) for i in range(5)]
    for i, row in enumerate(index.to_pylist()):
        npy = data[row["npy_offset"] : row["npy_offset"] + row["npy_length"]]
        json = data[row["json_offset"] : row["json_offset"] + row["json_length"]]
        assert (npy, json) == encode(row["key"], scan(i))
        assert (crc32c(npy), crc32c(json)) == (row["npy_crc32c"], row["json_crc32c"])
        assert (row["source"], row["item"]) == (key_of("source"), f"row/{i}")
        assert decode(row["key"], npy, json).labels == (i % 3,)


def test_a_flipped_bit_that_tar_does_not_notice_fails_its_crc(tmp_path: Path) -> None:
    row = write(tmp_path / "a.tar").to_pylist()[2]
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[row["npy_offset"] + row["npy_length"] - 3] ^= 4
    (tmp_path / "a.tar").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert len(tar.getnames()) == 10
    assert crc32c(bytes(data[row["npy_offset"] :][: row["npy_length"]])) != row["npy_crc32c"]


@pytest.mark.parametrize("key", ["", "1.2.840", "a/b"])
def test_a_key_that_webdataset_would_cut_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(IntegrityError, match="dot"):
        write_shard(tmp_path / "a.tar", [(key, scan(), "s", "")])


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="repeated"):
        write_shard(tmp_path / "a.tar", [(key_of(1), scan(), "s", ""), (key_of(1), scan(), "s", "")])


def test_size_is_what_lies_in_the_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as shard:
        shard.add(key_of(1), b"x" * 513, b"{}", "s", "")
        assert shard.size == 512 + 1024 + 512 + 512
        assert shard.samples == 1
        shard.close()
    assert (tmp_path / "a.tar").stat().st_size == 10240  # tar pads to whole records
