from __future__ import annotations

import re

import pytest

from medfuncta_dist.scans.scan_key import KeyMaker

KEYS = KeyMaker(bytes(range(32)))


def test_keys_of_properties_tell_equal_from_different_and_nothing_else() -> None:
    keys, others = KeyMaker(bytes(32)), KeyMaker(bytes(31) + b"1")
    made = [keys.property_key("size", "12"), keys.property_key("content", "12"), keys.property_key("size", "1", "2")]
    assert len({*made, others.property_key("size", "12"), keys.source_key("12")[:32]}) == 5
    assert made[0] == keys.property_key("size", "12")
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in made)


def test_keys_are_hex_without_a_dot() -> None:
    assert re.fullmatch("[0-9a-f]{64}", KEYS.scan_key("Doe^Jane/1.2.840.dcm", ""))


def test_keys_never_change() -> None:
    # A change here would give every scan of every archive another key.
    assert KEYS.scan_key("a/b.nii", "") == "b4cf1298e537184870bc9f712df762856b0602e95b6899712e81964117c84ba6"
    assert KEYS.source_key("a/b.nii") == "eae413b899e2ab8f6725aa4faa2ad862f1c407ee0a0d38bdd6d409de31a40b54"


def test_identities_do_not_share_keys() -> None:
    keys = [
        KEYS.source_key("ab"),
        KEYS.scan_key("ab", ""),
        KEYS.scan_key("a", "b"),
        KEYS.scan_key("", "ab"),
        KEYS.scan_key("a", "b\0"),
        KEYS.scan_key("a\0", "b"),
        KEYS.scan_key("\udce4", ""),  # a file name that is not UTF-8
        KEYS.scan_key("ä", ""),
    ]
    assert len(set(keys)) == len(keys)


def test_another_salt_gives_other_keys_and_is_noticed() -> None:
    other = KeyMaker(b"x" * 32)
    assert other.scan_key("a", "") != KEYS.scan_key("a", "")
    assert other.fingerprint() != KEYS.fingerprint()
    assert len(KEYS.fingerprint()) == 16


def test_short_salts_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyMaker(b"secret")
