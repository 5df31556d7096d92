"""publish.py is the only way to write what is decided: it checks the lease, and nothing in the package avoids it."""

from __future__ import annotations

import ast
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import medfuncta_dist
from medfuncta_dist.errors import LeaseLostError, MedfunctaError
from medfuncta_dist.storage import publish as publish_module
from medfuncta_dist.storage.commit_record import read_record
from medfuncta_dist.storage.leases.compare_and_swap import ConditionalStore
from medfuncta_dist.storage.leases.lease import Fence, run_lease
from medfuncta_dist.storage.leases.lease_claim import take
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE, NewRecord, publish, publish_bytes, publish_first, withdraw

PACKAGE = Path(medfuncta_dist.__file__).parent
WRITING = {"write", "write_if", "upload", "compare_and_swap"}
"""Methods of a store that put an object in storage."""

MAY_WRITE = {
    # publish.py itself.
    "publish.py:publish_bytes": "what is decided",
    "publish.py:publish_first": "what is decided, on a condition",
    # Data objects: names that no two writers share, or content addresses; nothing until a record names them.
    "checkpoint.py:write_share": "a rank's share",
    "committed_network.py:store_network": "a network's files",
    "prior_files.py:commit_prior": "a prior's files, under its digest, before its record",
    "shard_set.py:_upload_once": "a shard",
    "shard_set.py:_write_once": "an index",
    "shard_looks.py:write_looks": "the looks of a shard, under its content address; nothing depends on them",
    "snapshot.py:commit_snapshot": "a snapshot, before its record",
    "table_format.py:write_part": "a part of the latent table",
    "stored_tables.py:write_tables": "the tables of curved latents, under their content address, before their record",
    "row_groups.py:write_grouped": "a part of a latent table of patches",
    "catalogue_store.py:_put_files": "files of a latent table's catalogue, under their content addresses",
    "target.py:_upload": "files of a publication, before the checksums that make it one",
    "index_record.py:write_object": "an object of an index of neighbours, under its content address",
    "repair_shards.py:_pack_again": "a damaged shard's own bytes, under their content address",
    # What informs, and decides nothing.
    "event_log.py:flush": "events of one attempt",
    "log_uploader.py:_write": "the log of one driver, in a folder of its own",
    "progress_record.py:_write": "progress",
    "active_runs.py:mark_active": "that a run is active, for `list`; nothing decides by it",
    # Probes, which are removed again.
    "storage_checks.py:check_read_and_write": "doctor's probe",
    "frozen_run_file.py:require_writable": "whether storage can be written",
    "compare_and_swap.py:honours_conditions": "whether storage honours conditions",
    # The lease, which publish.py checks, and storage itself.
    "lease_claim.py:_write": "the lease",
    "lease_claim.py:take": "the lease",
    "compare_and_swap.py:compare_and_swap": "storage",
    "object_store.py:write": "storage",
    "object_store.py:write_if": "storage",
    "object_store.py:upload": "storage",
    "local_objects.py:write_if": "storage",
    # Files of this machine, no objects.
    "folder_writer.py:_write": "a file of the user's folder",
    "member_bytes.py:copy_member": "a local file",
    "s3_objects.py:get": "a local file",
    "source_files.py:_write": "a local file",
    "slab_files.py:_write_nifti": "a local file",
    "slab_files.py:_write_npy": "a local file",
    "split_look_alikes.py:_spooled": "a local file",
    "private_folder.py:_create_salt": "the owner's own file",
    "answer.py:write": "stdout",
    "screen_copy.py:write": "stderr",
    "screen_copy.py:writelines": "stderr",
    "worker_lines.py:write_line": "stderr",
    "decoder.py:_asked": "a pipe to the decoding process",
    "decoder.py:_write": "a pipe from it",
    "decoder.py:serve": "a pipe from it",
    "file.py:_explicit": "a copy in memory",
    "example_job.py:run_quickstart": "the scan, into the archive, which is input",
}
PLACES = {
    "compare_and_swap.py:honours_conditions": 4,
    "compare_and_swap.py:compare_and_swap": 2,
    "lease_claim.py:_write": 2,
    "decoder.py:_write": 2,
    "slab_files.py:_write_nifti": 2,
    "file.py:_explicit": 2,
}
"""How many places of a listed function write, where it is more than one."""
EXPLANATION = """These write to storage without storage/publish.py: {}.
What others take as decided (a record, a frozen file, figures) goes through storage/publish.py: publish(store, fence,
NewRecord(...)) or publish_bytes(store, fence, path, data), with Unfenced("why") where there is no lease by design. A
data object under a name of its own, which a record names that is published after it, is added to MAY_WRITE here."""


MODULE = "<module>"
"""Stands for a function's name where the line is in none."""


def names_a_write(node: ast.AST) -> bool:
    """Whether it takes a store's writing method, to call it or to hand it on, or is the former ``write_record``."""
    if isinstance(node, ast.Attribute):
        return node.attr in WRITING or node.attr == "write_record"
    if isinstance(node, ast.Name):
        return node.id == "write_record"
    called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Call) and called in ("getattr", "methodcaller"):
        return any(isinstance(word, ast.Constant) and word.value in WRITING for word in node.args)
    return False


def writers(tree: ast.AST, file: str, function: str = MODULE) -> Iterator[str]:
    """``<file>:<innermost function>`` once per place that may write to a store."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if names_a_write(node):
            yield f"{file}:{inside}"
        yield from writers(node, file, inside)


def found() -> Counter[str]:
    trees = ((ast.parse(path.read_text("utf-8")), path.name) for path in PACKAGE.rglob("*.py"))
    return Counter(writer for tree, name in trees for writer in writers(tree, name))


def test_only_publish_and_listed_functions_write_to_storage() -> None:
    writes = found()
    unlisted = sorted(writes.keys() - MAY_WRITE.keys())
    assert not unlisted, EXPLANATION.format(", ".join(unlisted))
    gone = sorted(MAY_WRITE.keys() - writes.keys())
    assert not gone, f"these no longer write: remove them from MAY_WRITE: {', '.join(gone)}"


def test_a_listed_function_writes_no_more_than_it_is_listed_for() -> None:
    more = {writer: count for writer, count in found().items() if count != PLACES.get(writer, 1)}
    assert not more, EXPLANATION.format(more) + " If that is so of all its places, count them in PLACES."


@pytest.mark.parametrize(
    "line",
    [
        "store.write(path, data)",
        "self._store.write(path, data)",
        "write_record(store, path)",
        "commit_record.write_record(store, path)",
        "s.upload(a, b)",
        "put = store.write",
        "partial(store.write_if, path)",
        "pool.map(self.store.upload, files)",
        'getattr(store, "write")(path, data)',
        'operator.methodcaller("write", path, data)(store)',
    ],
)
def test_a_write_without_publish_is_found(line: str) -> None:
    def places(source: str) -> list[str]:
        return list(writers(ast.parse(source), "new.py"))

    assert places(f"class A:\n    def freeze(self):\n        {line}\n") == ["new.py:freeze"]
    assert places(f"async def freeze():\n    {line}\n    {line}\n") == ["new.py:freeze"] * 2
    assert places(f"def outer():\n    def freeze():\n        {line}\n") == ["new.py:freeze"]
    assert places(f"{line}\n") == [f"new.py:{MODULE}"]
    assert places(f"freeze = lambda store, path, data: {line.removeprefix('put = ')}\n") == [f"new.py:{MODULE}"]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path))


@pytest.fixture
def lost(store: ObjectStore) -> Fence:
    """The fence of a driver whose run has another holder now, as a worker received it."""
    former = take(store, run_lease("r"), 0.2, print)
    former.give_back()
    take(store, run_lease("r"), 60, print)
    fence: Fence = pickle.loads(pickle.dumps(former.fence))
    return fence


RECORD = NewRecord("runs/r/thing.json", "thing", {"number": 1}, 7)


@pytest.mark.parametrize(
    "act",
    [
        lambda store, fence: publish(store, fence, RECORD),
        lambda store, fence: publish_bytes(store, fence, RECORD.path, b"new"),
        lambda store, fence: withdraw(store, fence, RECORD.path),
    ],
)
def test_a_driver_that_lost_its_lease_changes_no_byte(
    store: ObjectStore, lost: Fence, act: Callable[[ObjectStore, Fence], None]
) -> None:
    store.write(RECORD.path, b"old")
    with pytest.raises(LeaseLostError):
        act(store, lost)
    assert store.read(RECORD.path) == b"old"


def test_the_holder_of_the_lease_publishes_and_withdraws(store: ObjectStore) -> None:
    claim = take(store, run_lease("r"), 60, print)
    publish(store, claim.fence, RECORD)
    assert read_record(store, RECORD.path, "thing") == {"number": 1}
    withdraw(store, claim.fence, RECORD.path)
    assert not store.exists(RECORD.path)


def test_a_record_without_a_lease_is_written_once_where_a_condition_decides(store: ObjectStore) -> None:
    conditional = ConditionalStore.probe(store)
    assert publish_first(conditional, RECORD)
    assert not publish_first(conditional, NewRecord(RECORD.path, "thing", {"number": 2}))
    assert read_record(store, RECORD.path, "thing") == {"number": 1}


def test_a_record_larger_than_a_reader_accepts_is_refused(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_module, "LARGEST_RECORD", 64)
    with pytest.raises(MedfunctaError, match="larger than a reader accepts"):
        publish(store, ALONE, RECORD)
    assert not store.exists(RECORD.path)


def test_every_writer_without_a_lease_gives_a_reason() -> None:
    reasons = {
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Unfenced"
        if isinstance(node.args[0], ast.Constant)
    }
    assert len(reasons) == 5
    assert all(len(str(reason).split()) > 5 for reason in reasons)
