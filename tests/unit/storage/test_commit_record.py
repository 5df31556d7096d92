"""Commit records: what is written is read, what is damaged is refused, the highest generation wins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import FormatVersionError, IntegrityError, MedfunctaError, ObjectMissingError
from medfuncta_dist.storage.commit_record import latest_record, parse_record, read_record, read_records
from medfuncta_dist.storage.digest import canonical_json, digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from tests.records import write_record

BODY = {"files": {"x": "0" * 64}, "step": 3, "psnr": 31.25}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


def sealed(**changes: Any) -> bytes:
    """A record with fields changed and a digest that fits them."""
    record = {"format_version": 1, "kind": "pack", "generation": 0, "body": BODY} | changes
    return canonical_json(record | {"digest": digest_json(record)})


def test_what_is_written_is_read(store: ObjectStore) -> None:
    write_record(store, "c/1.json", "pack", BODY, generation=7)
    record = parse_record(store.read("c/1.json"), "pack", "here")
    assert (record.kind, record.generation, record.body) == ("pack", 7, BODY)
    assert record.digest == json.loads(store.read("c/1.json"))["digest"]
    assert read_record(store, "c/1.json", "pack") == BODY
    with pytest.raises(ObjectMissingError):
        read_record(store, "c/2.json", "pack")


def test_equal_records_are_equal_bytes(store: ObjectStore) -> None:
    write_record(store, "a.json", "pack", {"x": 1, "y": 2})
    write_record(store, "b.json", "pack", {"y": 2, "x": 1})
    assert store.read("a.json") == store.read("b.json")


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    whole = sealed()
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    damaged = bytearray(whole)
    damaged[at // 8] ^= 1 << at % 8
    with pytest.raises(IntegrityError) as caught:
        parse_record(bytes(damaged), "pack", "s3://b/c/1.json")
    assert caught.value.where == "s3://b/c/1.json"
    assert not isinstance(caught.value, FormatVersionError)  # damage is passed over, another version stops


@given(st.integers(0, len(sealed()) - 1))
def test_any_cut_is_noticed(length: int) -> None:
    with pytest.raises(IntegrityError):
        parse_record(sealed()[:length], "pack", "here")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_version_is_refused_by_name(version: object) -> None:
    with pytest.raises(FormatVersionError, match=f"format_version {version!r}") as caught:
        parse_record(sealed(format_version=version), "pack", "s3://b/c.json")
    assert caught.value.where == "s3://b/c.json"


@pytest.mark.parametrize(
    "data",
    [
        sealed(kind="latents"),
        sealed(generation="1"),
        sealed(body=[1]),
        b"[1]",
        sealed()[:-1] + b',"more":1e999}',
        sealed()[:-1] + b',"more":"\\ud800"}',
        b"\xff\xfe",
        b"[" * 100_000,
        sealed().replace(b"31.25", b"NaN"),
    ],
)
def test_what_is_no_such_record_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_record(data, "pack", "here")


def test_records_of_a_folder(s3: Callable[[], str]) -> None:
    store = ObjectStore(s3())
    for n in range(40):
        write_record(store, f"c/{n:02}.json", "pack", {"n": n}, generation=n % 7)
    store.write("c/notes.txt", b"not ours")
    write_record(store, "d/0.json", "pack", {"n": -1}, generation=99)
    found = read_records(store, "c", "pack")
    assert [path for path, _ in found] == [f"c/{n:02}.json" for n in range(40)]
    assert [record.body["n"] for _, record in found] == list(range(40))
    latest = latest_record(store, "c", "pack")
    assert latest is not None
    assert (latest[0], latest[1].generation) == ("c/34.json", 6)
    assert latest_record(store, "nothing", "pack") is None


def test_one_damaged_record_is_named(store: ObjectStore) -> None:
    write_record(store, "c/1.json", "pack", {"n": 1})
    write_record(store, "c/2.json", "pack", {"n": 2})
    text = json.loads(store.read("c/1.json"))
    text["body"]["n"] = 5
    store.write("c/1.json", canonical_json(text))
    with pytest.raises(IntegrityError) as caught:
        latest_record(store, "c", "pack")
    assert store.uri("c/1.json") in caught.value.where


def test_a_record_deleted_while_listing_is_passed_over(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(store, "c/1.json", "pack", {"n": 1})
    write_record(store, "c/2.json", "pack", {"n": 2})
    listing = store.list("c")
    store.delete("c/1.json")
    monkeypatch.setattr(ObjectStore, "list", lambda *_: listing)
    assert [path for path, _ in read_records(store, "c", "pack")] == ["c/2.json"]


def test_errors_are_ours(store: ObjectStore) -> None:
    store.write("c/1.json", b"{}")
    with pytest.raises(MedfunctaError) as caught:
        read_records(store, "c", "pack")
    assert caught.value.exit_code == 4


def test_a_bit_that_changes_no_value_is_noticed_too(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    write_record(store, "a.json", "test", {"small": 1e-05, "long": 0.12345678901234568})
    good = store.read("a.json")
    for same in (good.replace(b"1e-05", b"1E-05"), good + b" "):
        assert json.loads(same) == json.loads(good)
        store.write("a.json", same)
        with pytest.raises(IntegrityError, match="its own digest"):
            read_record(store, "a.json", "test")
