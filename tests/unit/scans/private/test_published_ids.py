from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import FormatVersionError
from medfuncta_dist.scans.private.published_ids import new_id_list, publications_with


def kept(folder: Path, name: str, target: str, *ids: str, dataset: str = "small") -> Path:
    with new_id_list(folder, dataset, target) as found:
        found.add(ids, [f"key of {one}" for one in ids])
        return found.keep(name)


def test_the_publications_of_a_scan_are_found_with_its_ids(tmp_path: Path) -> None:
    kept(tmp_path, "a", "s3://bucket/one, with a comma", "3", "1", "2")
    kept(tmp_path, "b", "two", "4")
    kept(tmp_path, "c", "three", "1", dataset="other")
    [found] = publications_with(tmp_path, "small", {"key of 1", "key of 3", "key of 9"})
    assert (found.target, found.ids, found.dataset) == ("s3://bucket/one, with a comma", ("1", "3"), "small")
    assert found.date.endswith("Z")
    assert publications_with(tmp_path, "small", {"key of 9"}) == []
    assert publications_with(tmp_path / "none", "small", {"key of 1"}) == []


def test_the_same_published_twice_has_two_lists(tmp_path: Path) -> None:
    """Whose ids are keys: the second place has the same files, and both must be named where a scan is forgotten."""
    first, second, third = (kept(tmp_path, "a", target, "1") for target in ("one", "two", "three"))
    assert [path.name for path in (first, second, third)] == ["a.csv", "a-2.csv", "a-3.csv"]
    found = publications_with(tmp_path, "small", {"key of 1"})
    assert sorted(one.target for one in found) == ["one", "three", "two"]


def test_only_the_owner_reads_it_and_what_is_not_kept_is_gone(tmp_path: Path) -> None:
    path = kept(tmp_path, "a", "one", "1")
    assert path.stat().st_mode & 0o777 == 0o600
    with new_id_list(tmp_path, "small", "two") as found:
        found.add(["2"], ["key of 2"])
    assert list(path.parent.iterdir()) == [path]


def test_a_list_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path, "a", "one", "1")
    path.write_text(path.read_text().replace("format_version,1", "format_version,2"))
    with pytest.raises(FormatVersionError, match="format_version"):
        publications_with(tmp_path, "small", {"key of 1"})
