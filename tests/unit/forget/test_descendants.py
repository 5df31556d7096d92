"""Runs that were started from an affected one may have learned from the forgotten scans, too."""

from __future__ import annotations

from pathlib import Path

from medfuncta_dist.config.load import dump, parse
from medfuncta_dist.forget.affected_runs import runs_on, with_descendants
from medfuncta_dist.storage.object_store import ObjectStore

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
