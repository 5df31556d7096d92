"""The data contract: the settings that decide what a packed scan is. A data set has one contract and one salt.

    datasets/<name>/dataset.json   commit record {"name", "contract", "salt"}, written when the first scans are packed

``salt`` is the salt's fingerprint. With another salt every scan would get another key and be packed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from medfuncta_dist.config.sections.data_section import Data, Grouping
from medfuncta_dist.config.sections.series_section import Series
from medfuncta_dist.config.sections.table_section import Table
from medfuncta_dist.errors import LostObjectError, ObjectMissingError, RunChangedError
from medfuncta_dist.shards.snapshot import dataset_path
from medfuncta_dist.storage.commit_record import read_as
from medfuncta_dist.storage.digest import digest_json
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing.strict_json import RESTORE
from medfuncta_dist.storage.publish import Guard, NewRecord, publish

KIND = "dataset"
PATIENT: Final = "patient"
SOURCE: Final = "source"
FILE: Final = "file"
RESAMPLED: Final = "resample"
OFF: Final = "off"
STORED: Final = "stored"
SUV: Final = "suv"
BY_POSITION: Final = "position"
BY_INSTANCE: Final = "instance"
CT_WINDOW: Final = [-1000.0, 1000.0]
"""Hounsfield units: from air to dense bone, with water in the middle, whatever organ is shown. (See the decisions.)"""
EARLIER = {
    "group": SOURCE,
    "series": FILE,
    "length": RESAMPLED,
    "leads": None,
    "csv": None,
    "volume": "each",
    "ct_window": OFF,
    "spacing": None,
    "volume_names": BY_POSITION,
    "pet": STORED,
}
"""What a contract without these keys says: earlier versions had no choice. At these values it leaves them out."""
OPEN = ("series", "length", "ct_window", "volume_names", "pet")
"""Keys that may be left open, besides ``group``: a new data set gets the present default, and keeps it."""
RULE_DIGITS = 16
"""Hex digits that tell one rule from another."""


@dataclass(frozen=True)
class _DatasetRecord:
    """The body of the data set's record."""

    name: str
    contract: dict[str, Any]
    salt: str


def contract_of(data: Data) -> dict[str, Any]:
    """What the run file's ``data`` section says about a packed scan, as JSON values.

    It leaves out where scans come from (archives grow and move; of ``splits`` it has only the names) and how scans are
    grouped into shards and tasks. ``group`` is missing where scans are split by source, and ``series`` where each DICOM
    file is packed by itself, as in earlier versions; of a rule or a table it has a digest, because a contract travels
    with networks, and a rule can hold names of folders. Other keys that earlier versions did not have are missing, too,
    where they say what those versions did. With ``patches``, ``shape`` says only how many axes scans have: runs with
    patches of other sizes share a data set.
    """
    part = data.part(lambda key: key.in_contract) | {"splits": sorted(data.splits) if data.splits else None}
    part |= {"group": _described(data.grouping), "shape": packed_shape(data)}
    kept = {name: value for name, value in part.items() if name != "table"} | _given_by(data.table)
    return {name: value for name, value in kept.items() if name not in EARLIER or value not in (None, EARLIER[name])}


def packed_shape(data: Data) -> list[int] | dict[str, int]:
    """The shape of all packed scans as the contract says it; where they keep their own, ``{"axes": 3}``."""
    return list(data.shape) if data.patches is None else {"axes": len(data.shape)}


def _given_by(table: Table | None) -> dict[str, Any]:
    """What the contract says of a table that gives splits. Labels are not part of it: each pack compares them."""
    if table is None or table.split is None:
        return {}
    return {"table": {"splits": "given", "by": table.by, "split": digest_json(table.split)[:RULE_DIGITS]}}


def _described(group: str | Grouping | Table | None) -> str | dict[str, str] | None:
    """What the contract says of the grouping; None for ``source``, and where it is open."""
    if isinstance(group, str):
        return None if group == SOURCE else group
    if group is None:
        return None
    if isinstance(group, Table):
        return {"table": digest_json({"by": group.by, "group": group.group})[:RULE_DIGITS]}
    if group.path is not None:
        return {"path": digest_json(group.path)[:RULE_DIGITS]}
    columns = {"group": group.group, "split": group.split, "label": group.label}
    return {"table": digest_json(columns)[:RULE_DIGITS], "splits": "given" if group.split else "by group"}


def _restored(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    open_ones = [f"data.{name}" for name in ("group", "series") if ours.get(name) != theirs.get(name)]
    if not open_ones:
        return "restore these values"
    return f"restore these values ({' and '.join(open_ones)}: leave it out to go on as the data set was begun)"


class SplitsBy(StrEnum):
    """What decides the splits of a data set."""

    PATIENT = "patient"
    RULE = "rule"
    """Patients too, as the run file's rule or table names them."""
    SOURCE = "source"
    GIVEN = "given"
    """The run file or its table assigns each source."""
    SLABS = "slabs"


def splits_by(contract: Mapping[str, Any]) -> SplitsBy:
    """What decides the splits of a data set of this contract. (An npz in MedMNIST's layout has splits of its own.)"""
    group = contract.get("group", SOURCE)
    if contract.get("slabs") is not None:
        return SplitsBy.SLABS
    by_group = isinstance(group, Mapping) and group.get("splits") == "given"
    if contract.get("splits") is not None or contract.get("table") is not None or by_group:
        return SplitsBy.GIVEN
    return SplitsBy(group) if isinstance(group, str) else SplitsBy.RULE


def about_splits(contract: Mapping[str, Any]) -> str:
    """By what the splits were made, for people; a sentence without its full stop."""
    return SPLITS_BY[splits_by(contract)]


SPLITS_BY = {
    SplitsBy.PATIENT: "splits by patient",
    SplitsBy.RULE: "splits by patient, as data.group names them",
    SplitsBy.SOURCE: "splits by source: several scans of a patient may be in different splits",
    SplitsBy.GIVEN: "splits as given",
    SplitsBy.SLABS: "splits within a volume, by slabs of slices: every patient is in several splits",
}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One line per difference, ``data.shape: [28, 28] in the run file, [64, 64] in the data set``; [] when equal."""
    ours, theirs = EARLIER | dict(ours), EARLIER | dict(theirs)
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return [f"data.{n}: {ours.get(n)} in the run file, {theirs.get(n)} in the data set" for n in names]


def require_contract(data: Data, contract: Mapping[str, Any], where: str) -> None:
    """``RunChangedError``, with the differences, unless ``data`` would pack scans like the data set's.

    Where ``data.group`` or a key in ``OPEN`` is open, the data set's own counts.
    """
    ours = contract_of(data)
    if data.grouping is None and data.slabs is None and "group" in contract:
        ours["group"] = contract["group"]
    ours |= {name: contract[name] for name in OPEN if getattr(data, name) is None and name in contract}
    if lines := differences(ours, contract):
        raise RunChangedError(
            "the data set was packed with another data section:\n    " + "\n    ".join(lines),
            where=where,
            do=f"{_restored(ours, contract)}, or set data.dataset to a new name to pack everything again",
        )


def open_dataset(store: ObjectStore, name: str, data: Data, salt: str, fence: Guard) -> Data:
    """Create the data set's record, or check that ``data`` and the salt's fingerprint match it.

    Returns ``data`` with the ``group`` and the keys of ``OPEN`` that the data set has, where they were open; ``length``
    stays so in one of an earlier version. LeaseLostError if the lease of the data set's ``fence`` is lost.
    """
    path, contract = dataset_path(name, "dataset.json"), check_dataset(store, name, data, salt)
    if contract is not None:
        data = _with_length(with_series(data, contract), contract.get("length"))
        data = _with_ct_window(data, contract.get("ct_window", OFF))
        data = _with_pet(data, contract.get("pet", STORED))
        data = _with_volume_names(data, contract.get("volume_names", BY_POSITION))
        return _with_group(data, _packed_by(contract, store.uri(path)) if data.grouping is None else None)
    data = with_series(_with_group(data, PATIENT if data.slabs is None else SOURCE), None)
    of_signals = "exact" if data.patches is None else RESAMPLED  # to their own length
    data = _with_length(data, of_signals if len(data.shape) == 1 else None)
    data = _with_volume_names(_with_ct_window(_with_pet(data, SUV), CT_WINDOW), BY_INSTANCE)
    body = {"name": name, "contract": contract_of(data), "salt": salt}
    publish(store, fence, NewRecord(path, KIND, body))
    return data


def check_dataset(store: ObjectStore, name: str, data: Data, salt: str) -> Mapping[str, Any] | None:
    """The contract of the data set, or None where there is none yet; ``RunChangedError`` unless ``data`` and the salt's
    fingerprint match its record."""
    path = dataset_path(name, "dataset.json")
    try:
        record = read_as(_DatasetRecord, store, path, KIND)
    except ObjectMissingError:
        return None
    require_contract(data, record.contract, store.uri(path))
    if record.salt != salt:
        raise RunChangedError(
            "the data set's keys were made with another salt: every scan would be packed a second time",
            where=store.uri(path),
            do="restore the salt: the file in data.private where the data set was first packed, or MEDFUNCTA_SALT",
        )
    return record.contract


def recorded_contract(store: ObjectStore, name: str) -> Mapping[str, Any]:
    """The contract of a data set as its record says it. LostObjectError where there is no record."""
    path = dataset_path(name, "dataset.json")
    try:
        return read_as(_DatasetRecord, store, path, KIND).contract
    except ObjectMissingError as error:
        what = f"the record of data set {name} is missing"
        raise LostObjectError(what, where=store.uri(path), do=RESTORE) from error


def _packed_by(contract: Mapping[str, Any], where: str) -> str:
    group = contract.get("group", SOURCE)
    if not isinstance(group, str):
        raise RunChangedError(
            f"the splits of this data set were made by a {' and a '.join(sorted({'path', 'table'} & set(group)))} in "
            "data.group or data.table, and the run file gives none",
            where=where,
            do="write the same data.group or data.table as when it was packed, or set data.dataset to a new name",
        )
    return group


def _with_group(data: Data, group: str | None) -> Data:
    return data if data.grouping is not None else data.model_copy(update={"group": group})


def with_series(data: Data, contract: Mapping[str, Any] | None) -> Data:
    """``data`` with the ``series`` that a data set of this contract has, or a new one will have, where it was open."""
    if data.series is not None:
        return data
    series = {} if contract is None else contract.get("series", FILE)
    return data.model_copy(update={"series": FILE if series == FILE else Series.model_validate(series)})


def _with_length(data: Data, length: str | None) -> Data:
    return data if data.length is not None else data.model_copy(update={"length": length})


def _with_volume_names(data: Data, names: str) -> Data:
    """Where no volumes of series are packed, nothing is called so."""
    if data.volume_names is not None or not (isinstance(data.series, Series) and data.takes_volumes):
        return data
    return data.model_copy(update={"volume_names": names})


def _with_pet(data: Data, values: str) -> Data:
    """Where no DICOM images are read, there is no PET."""
    read = len(data.shape) > 1 and data.reader in (None, "dicom")
    return data.model_copy(update={"pet": values}) if data.pet is None and read else data


def _with_ct_window(data: Data, window: str | list[float]) -> Data:
    """Where another mode than auto chooses the window, none is needed."""
    if data.ct_window is not None:
        return data
    return data.model_copy(update={"ct_window": window if data.intensity.mode == "auto" else OFF})
