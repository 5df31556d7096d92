"""Where the labels of scans come from, for whoever asks for them where there are none. Pure."""

from __future__ import annotations

from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.config.sections.table_section import Table
from medfuncta_dist.scans.readers.medmnist import MedmnistReader
from medfuncta_dist.scans.readers.reader_registry import find_reader
from medfuncta_dist.scans.readers.signals.ecg_csv import EcgCsvReader

OF_READER = {
    MedmnistReader.name: "an npz gives them as `train_labels` beside `train_images`, and so for each split",
    EcgCsvReader.name: "a CSV file gives them in the column that `data.csv.label` names",
}
NO_READER = "these files hold none, and names of folders are not read as labels"
AS_TABLE = "`data.table: {path: labels.csv, by: path, label: COLUMN}` takes them from a table of yours, a row per file"
ANEW = "a run keeps its data section, so give the run file another `name` (and `data.dataset`, if set), then run pack, "
ANEW += "train and fit"
DROPPED = "`data.identifying_labels: drop` packs a file without labels where they look like identifiers"


def explain_missing_labels(data: Data) -> str:
    """What to do where the scans of a data set that was packed with this section have no labels, as one sentence."""
    if columns := _label_columns(data):
        return f"fill the table's column {columns} for these scans, then run pack and fit: the table is read again"
    told = [OF_READER.get(name, NO_READER) for name in _reader_names(data)]
    dropped = [DROPPED] if data.identifying_labels == "drop" else []
    return "; ".join([*dict.fromkeys(told), *dropped, AS_TABLE, ANEW])


def _label_columns(data: Data) -> str:
    """The columns of labels of the run file's table; "" without any."""
    if data.table is not None:
        return ", ".join(repr(label.column) for label in data.table.labels)
    grouping = data.group
    if grouping is None or isinstance(grouping, str | Table) or not grouping.label:
        return ""
    return repr(grouping.label)


def _reader_names(data: Data) -> list[str]:
    """Of the readers of all patterns; "" where a pattern's suffix does not tell, as that of a folder."""
    if data.reader is not None:
        return [data.reader]
    given = [data.source] if data.splits is None else list(data.splits.values())
    patterns = [one for part in given for one in ([part] if isinstance(part, str) else part or [])]
    found = [find_reader(None, pattern) if "." in pattern.rsplit("/", 1)[-1] else None for pattern in patterns]
    return [one.name if one is not None else "" for one in found]
