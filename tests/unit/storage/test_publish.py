"""publish.py is the only way to write what is decided: it checks the lease, and nothing in the package avoids it."""

from __future__ import annotations

import ast
import pickle
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
    "shard_set.py:_upload_once": "a shard",
    "shard_set.py:_write_once": "an index",
    "snapshot.py:commit_snapshot": "a snapshot, before its record",
    "table_format.py:write_part": "a part of the latent table",
    "repair_shards.py:repair_task": "a damaged shard's own bytes, under their content address",
    # What informs, and decides nothing.
    "event_log.py:flush": "events of one attempt",
    "progress_record.py:_write": "progress",
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
    "s3_objects.py:get": "a local file",
    "s3_objects.py:download": "a local file",
    "private_folder.py:_create_salt": "the owner's own file",
    "answer.py:_redirect_stdout": "stdout",
    "answer.py:write": "stdout",
    "example_job.py:run_quickstart": "the scan, into the archive, which is input",
}
EXPLANATION = """These write to storage without storage/publish.py: {}.
What others take as decided (a record, a frozen file, figures) goes through storage/publish.py: publish(store, fence,
NewRecord(...)) or publish_bytes(store, fence, path, data), with Unfenced("why") where there is no lease by design. A
data object under a name of its own, which a record names that is published after it, is added to MAY_WRITE here."""


def writers(source: str, file: str) -> Iterator[str]:
    """``<file>:<function>`` of each call that may write to a store, or that uses the former ``write_record``."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            called = node.func if isinstance(node, ast.Call) else None
            name = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            if (isinstance(called, ast.Attribute) and name in WRITING) or name == "write_record":
                yield f"{file}:{function.name}"


def found() -> set[str]:
    return {writer for path in PACKAGE.rglob("*.py") for writer in writers(path.read_text("utf-8"), path.name)}


def test_only_publish_and_listed_functions_write_to_storage() -> None:
    unlisted = sorted(found() - MAY_WRITE.keys())
    assert not unlisted, EXPLANATION.format(", ".join(unlisted))
    gone = sorted(MAY_WRITE.keys() - found())
    assert not gone, f"these no longer write: remove them from MAY_WRITE: {', '.join(gone)}"


@pytest.mark.parametrize(
    "line", ["store.write(path, data)", "self._store.write(path, data)", "write_record(store, path)", "s.upload(a, b)"]
)
def test_a_write_without_publish_is_found(line: str) -> None:
    assert list(writers(f"class A:\n    def freeze(self):\n        {line}\n", "new.py")) == ["new.py:freeze"]


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
