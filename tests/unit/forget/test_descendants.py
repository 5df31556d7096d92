"""Runs that were started from an affected one may have learned from the forgotten scans, too."""

from __future__ import annotations

from pathlib import Path

from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.forget.affected_runs import runs_on
from medfuncta_dist.forget.descendants import with_descendants
from medfuncta_dist.forget.forget_text import NOT_UNLEARNED
from medfuncta_dist.network.start_record import KIND, start_path
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, NewRecord, publish

RUN = "{{name: {name}, storage: {root}, data: {{source: x/*.png, shape: [8, 8], dataset: {data}}}, train: {{{train}}}}}"


def test_runs_that_were_started_from_one_are_named_with_it_in_any_number_of_steps(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    starts = {
        "a": "",
        "b": "start_from: a",
        "c": f"start_from: {tmp_path}/runs/b",
        "d": "start_from: s3://other/runs/a",
    }
    for name, train in starts.items():
        run = parse(RUN.format(name=name, root=tmp_path, data="other" if name > "a" else "scans", train=train))
        store.write(f"runs/{name}/run.yaml", dump(run).encode())
    store.write("runs/a/network/x/network.json", b"{}")
    trained = [run.name for run in runs_on(store, "scans") if run.trained]
    assert trained == ["a"]
    assert with_descendants(store, trained) == ["a", "b", "c"]
    assert with_descendants(store, []) == []
    for info in store.list("runs/a"):
        store.delete(info.path)
    assert with_descendants(store, ["a"]) == ["a", "b", "c"]


def test_a_run_with_a_copy_to_start_from_counts_as_trained(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    store.write("runs/a/run.yaml", dump(parse(RUN.format(name="a", root=tmp_path, data="scans", train=""))).encode())
    assert not runs_on(store, "scans")[0].trained
    store.write("runs/a/start/commit.json", b"{}")
    assert runs_on(store, "scans")[0].trained
    assert "these runs may have" in NOT_UNLEARNED.format(runs="a")


def begin(store: ObjectStore, name: str, train: str = "", network: str = "", start: str = "") -> None:
    """Its run file, the record of its start and the network that it has trained; of a digest, two digits are given."""
    run = parse(RUN.format(name=name, root=store.root, data="other", train=train))
    store.write(f"runs/{name}/run.yaml", dump(run).encode())
    if start:
        publish(store, ALONE, NewRecord(start_path(name), KIND, {"digest": start * 32}))
    if network:
        store.write(f"runs/{name}/network/{network * 32}/network.json", b"{}")


def test_a_start_is_found_by_its_digest_wherever_the_network_was_taken_from(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    begin(store, "a", network="0a")
    begin(store, "b", "start_from: s3://mirror/runs/a", network="0b", start="0a")
    begin(store, "c", "start_from: /elsewhere/a-copy", network="0c", start="0b")
    begin(store, "d", "start_from: s3://mirror/runs/x", network="0d", start="0f")
    assert with_descendants(store, ["a"]) == ["a", "b", "c"]
    assert with_descendants(store, ["b"]) == ["b", "c"]
    store.delete("runs/b/start/commit.json")
    begin(store, "b", "start_from: s3://mirror/runs/a")
    assert with_descendants(store, ["a"]) == ["a"]
    body = {"digest": "0b" * 32, "started_from": "0a" * 32}
    publish(store, ALONE, NewRecord("runs/b/network/commit.json", "network", body))
    assert with_descendants(store, ["a"]) == ["a", "b", "c"]


def test_a_network_that_has_been_replaced_or_deleted_still_tells_its_descendants(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    begin(store, "a", network="0a")
    publish(store, ALONE, NewRecord("runs/a/network/commit.json", "network", {"digest": "0e" * 32}))
    begin(store, "b", "start_from: s3://mirror/runs/a", start="0a")
    begin(store, "c", "start_from: s3://mirror/runs/a", start="0e")
    begin(store, "d", "start_from: gone", start="09")
    begin(store, "e", "start_from: s3://mirror/runs/gone", start="09")
    assert with_descendants(store, ["a"]) == ["a", "b", "c"]
    assert with_descendants(store, ["gone"]) == ["d", "e", "gone"]


def test_a_start_is_found_through_links_and_dots(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "store"))
    begin(store, "a")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    (tmp_path / "latest").symlink_to(tmp_path / "store/runs/a")
    for name, path in (("b", "link/runs/a"), ("c", "store/../store/runs/a"), ("d", "latest"), ("e", "storage/runs/a")):
        begin(store, name, f"start_from: {tmp_path}/{path}")
    assert with_descendants(store, ["a"]) == ["a", "b", "c", "d"]
    assert with_descendants(ObjectStore(str(tmp_path / "link")), ["a"]) == ["a", "b", "c", "d"]


def test_a_run_that_has_a_start_and_tells_not_whose_may_have_learned(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    begin(store, "a")
    begin(store, "b", start="0f", network="0b")
    begin(store, "c", "start_from: s3://mirror/runs/b", start="0b")
    begin(store, "d")
    assert with_descendants(store, ["a"]) == ["a"]
    store.write("runs/b/run.yaml", b"damaged")
    store.write("runs/d/start/commit.json", b"damaged")
    assert with_descendants(store, ["a"]) == ["a", "b", "c", "d"]
    store.delete("runs/b/run.yaml")
    assert with_descendants(store, ["a"]) == ["a", "b", "c", "d"]
    assert with_descendants(store, []) == []
