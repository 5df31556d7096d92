"""The data contract: the settings that decide what a packed scan is. A data set has one contract and one salt.

    datasets/<name>/dataset.json   commit record {"name", "contract", "salt"}, written when the first scans are packed

``salt`` is the salt's fingerprint. With another salt every scan would get another key and be packed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import ObjectMissingError, RunChangedError
from medfuncta_dist.shards.snapshot import dataset_path
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import Guard, NewRecord, publish

KIND = "dataset"


@dataclass(frozen=True)
class _DatasetRecord:
    """The body of the data set's record."""

    name: str
    contract: dict[str, Any]
    salt: str


def contract_of(data: Data) -> dict[str, Any]:
    """What the run file's ``data`` section says about a packed scan, as JSON values.

    It leaves out where scans come from (archives grow and move; of ``splits`` it has only the names) and how scans are
    grouped into shards and tasks.
    """
    return data.part(lambda key: key.in_contract) | {"splits": sorted(data.splits) if data.splits else None}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One line per difference, ``data.shape: [28, 28] in the run file, [64, 64] in the data set``; [] when equal."""
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return [f"data.{n}: {ours.get(n)} in the run file, {theirs.get(n)} in the data set" for n in names]


def require_contract(data: Data, contract: Mapping[str, Any], where: str) -> None:
    """``RunChangedError``, with the differences, unless ``data`` would pack scans like the data set's."""
    if lines := differences(contract_of(data), contract):
        raise RunChangedError(
            "the data set was packed with another data section:\n    " + "\n    ".join(lines),
            where=where,
            do="restore these values, or set data.dataset to a new name to pack everything again",
        )


def open_dataset(store: ObjectStore, name: str, data: Data, salt: str, fence: Guard) -> None:
    """Create the data set's record, or check that ``data`` and the salt's fingerprint match it.

    LeaseLostError if the lease of the data set's ``fence`` is lost.
    """
    if not check_dataset(store, name, data, salt):
        body = {"name": name, "contract": contract_of(data), "salt": salt}
        publish(store, fence, NewRecord(dataset_path(name, "dataset.json"), KIND, body))


def check_dataset(store: ObjectStore, name: str, data: Data, salt: str) -> bool:
    """Whether there is a data set; ``RunChangedError`` unless ``data`` and the salt's fingerprint match its record."""
    path = dataset_path(name, "dataset.json")
    try:
        record = read_as(_DatasetRecord, store, path, KIND)
    except ObjectMissingError:
        return False
    require_contract(data, record.contract, store.uri(path))
    if record.salt != salt:
        raise RunChangedError(
            "the data set's keys were made with another salt: every scan would be packed a second time",
            where=store.uri(path),
            do="restore the salt: the file in data.private where the data set was first packed, or MEDFUNCTA_SALT",
        )
    return True
